//! Limits that change, what is used, and containers that stand still.

mod sandbox;

use ampoule_protocol::message::{ErrorKind, ProcessId, Reply, Request, Stats, Stdio};
use sandbox::{Sandbox, can_run};
use serde_json::json;

fn named(name: &str) -> String {
    name.to_owned()
}

/// A container that counts, a line each tenth of a second.
fn start(sandbox: &Sandbox) -> (sandbox::Rpc, std::io::BufReader<std::os::unix::net::UnixStream>) {
    let token = sandbox.token();
    let output = sandbox.stream(&token);
    let stdio = Stdio { stdout: Some(token), ..Stdio::default() };
    let script = "while :; do echo x; usleep 100000; done";
    let request = sandbox.request("c", &["sh", "-c", script], stdio);
    let rpc = sandbox.rpc();
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    (rpc, std::io::BufReader::new(output))
}

fn stats(rpc: &sandbox::Rpc) -> Stats {
    match rpc.call(Request::Stats { container: named("c") }) {
        Reply::Stats(stats) => *stats,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    use std::io::BufRead;
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let (rpc, mut output) = start(&sandbox);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    rpc.done(Request::Pause { container: named("c") });
    // What was written before still comes; after that there is nothing for much longer than a line
    // takes.
    output.get_ref().set_read_timeout(Some(std::time::Duration::from_millis(700))).unwrap();
    let silence = loop {
        line.clear();
        match output.read_line(&mut line) {
            Ok(length) => assert!(length > 0),
            Err(e) => break e,
        }
    };
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock);

    let wrong = [
        Request::Pause { container: named("c") },
        Request::Exec(Box::new(sandbox::exec("c", "p", &["true"], Stdio::default()))),
        Request::Delete { container: named("c") },
    ];
    for request in wrong {
        let (kind, message) = rpc.error(request);
        assert_eq!(kind, ErrorKind::WrongState);
        assert!(message.contains("is paused"), "{message}");
    }
    rpc.done(Request::Resume { container: named("c") });
    output.get_ref().set_read_timeout(None).unwrap();
    line.clear();
    assert!(output.read_line(&mut line).unwrap() > 0);
    assert_eq!(rpc.error(Request::Resume { container: named("c") }).0, ErrorKind::WrongState);

    // A signal that cannot be caught ends a container that stands still.
    rpc.done(Request::Pause { container: named("c") });
    rpc.kill("c", libc::SIGKILL);
    assert_eq!(rpc.wait(ProcessId::init("c")).code, 137);
    assert_eq!(rpc.error(Request::Resume { container: named("c") }).0, ErrorKind::WrongState);
    rpc.done(Request::Delete { container: named("c") });
}

#[test]
fn what_is_used_is_told() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let (rpc, _output) = start(&sandbox);
    // The core of cgroup v2 counts processor time where no controller is there.
    let used = stats(&rpc).cpu["usage_usec"];
    assert!(used > 0);
    assert_eq!(rpc.error(Request::Stats { container: named("none") }).0, ErrorKind::NotFound);
    if sandbox.has_controller("pids") {
        assert!(stats(&rpc).pids.current >= 1);
    }
    if sandbox.has_controller("memory") {
        assert!(stats(&rpc).memory.usage.current > 0);
        assert!(stats(&rpc).memory.stat.contains_key("anon"));
    }
    if sandbox.has_controller("hugetlb") {
        assert!(!stats(&rpc).hugetlb.is_empty());
    }
    rpc.kill("c", libc::SIGKILL);
    rpc.wait(ProcessId::init("c"));
}

#[test]
fn limits_change_while_a_container_runs() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let (rpc, _output) = start(&sandbox);
    let update = |resources: serde_json::Value| Request::Update {
        container: named("c"),
        resources: Box::new(serde_json::from_value(resources).unwrap()),
    };
    let (kind, message) = rpc.error(update(json!({"memory": {"swappiness": 10}})));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("memory.swappiness"), "{message}");
    if sandbox.has_controller("hugetlb") {
        let size = stats(&rpc).hugetlb.keys().next().unwrap().clone();
        let limit = 1u64 << 30;
        rpc.done(update(json!({"hugepageLimits": [{"pageSize": size, "limit": limit}]})));
        assert_eq!(stats(&rpc).hugetlb[&size].limit, Some(limit));
    }
    if sandbox.has_controller("pids") {
        rpc.done(update(json!({"pids": {"limit": 77}})));
        assert_eq!(stats(&rpc).pids.limit, Some(77));
    }
    if sandbox.has_controller("memory") {
        rpc.done(update(json!({"memory": {"limit": 64 << 20}})));
        assert_eq!(stats(&rpc).memory.usage.limit, Some(64 << 20));
        let checked = json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}});
        assert_eq!(rpc.error(update(checked)).0, ErrorKind::InvalidArgument);
    }
    rpc.kill("c", libc::SIGKILL);
    rpc.wait(ProcessId::init("c"));
    assert_eq!(rpc.error(update(json!({}))).0, ErrorKind::WrongState);
}
