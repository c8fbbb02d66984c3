//! A container's life, as the host sees it.

mod sandbox;

use std::os::fd::AsFd;

use ampoule_protocol::message::{ErrorKind, Event, ProcessId, Reply, Request, Stdio};
use ampoule_protocol::{VERSION, frame};
use sandbox::{Sandbox, can_run, changed, collect, exec, feed, process, text};
use serde_json::json;

#[test]
fn a_container_runs_and_tells_its_exit_code() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "echo out; echo err >&2; exit 7";
    let (status, out, err) = sandbox.run("c", &["sh", "-c", script]);
    assert_eq!((status.code, status.oom_killed), (7, false));
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    // The name is free again.
    assert_eq!(sandbox.run("c", &["true"]).0.code, 0);
    assert_eq!(sandbox.shut_down(), 0);
}

#[test]
fn bytes_pass_both_ways_unchanged() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let (stdio, pipes) = sandbox.pipes();
    let rpc = sandbox.rpc();
    rpc.created(Request::Create(Box::new(sandbox.request("cat", &["cat"], stdio))));
    rpc.done(Request::Start(ProcessId::init("cat")));
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..10 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        })
        .collect();
    let copy = bytes.clone();
    let feeder = std::thread::spawn(move || feed(pipes.stdin, &copy));
    assert_eq!(rpc.wait(ProcessId::init("cat")).code, 0);
    feeder.join().unwrap();
    assert!(pipes.stdout.join().unwrap() == bytes);
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let token = sandbox.token();
    let stdout = sandbox.stream(&token);
    let rpc = sandbox.rpc();
    let stdio = Stdio { stdout: Some(token), ..Stdio::default() };
    rpc.created(Request::Create(Box::new(sandbox.request("yes", &["yes"], stdio))));
    rpc.done(Request::Start(ProcessId::init("yes")));
    drop(stdout);
    let code = rpc.wait(ProcessId::init("yes")).code;
    // busybox sees EPIPE or SIGPIPE: a first process has no default signal actions.
    assert!(code == 1 || code == 141, "{code}");
}

#[test]
fn a_stream_may_come_after_its_process() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let token = sandbox.token();
    let stdio = Stdio { stdout: Some(token.clone()), ..Stdio::default() };
    let rpc = sandbox.rpc();
    rpc.created(Request::Create(Box::new(sandbox.request("c", &["echo", "late"], stdio))));
    rpc.done(Request::Start(ProcessId::init("c")));
    rpc.send(&Request::Wait(ProcessId::init("c")));
    let stdout = collect(sandbox.stream(&token));
    assert!(matches!(rpc.receive(), Reply::Exited(status) if status.code == 0));
    assert_eq!(text(stdout), "late\n");
}

#[test]
fn requests_may_be_sent_ahead_of_replies() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.raw_rpc();
    let request = sandbox.request("c", &["sh", "-c", "exit 3"], Stdio::default());
    frame::write(
        &mut &rpc.0,
        &ampoule_protocol::message::Hello { version: VERSION, entered_us: 0, ready_us: 0 },
    )
    .unwrap();
    rpc.send(&Request::Create(Box::new(request)));
    rpc.send(&Request::Start(ProcessId::init("c")));
    rpc.send(&Request::Wait(ProcessId::init("c")));
    let hello: ampoule_protocol::message::Hello = frame::read(&mut &rpc.0).unwrap();
    assert_eq!(hello.version, VERSION);
    assert!(matches!(rpc.receive(), Reply::Created { .. }));
    assert_eq!(rpc.receive(), Reply::Done);
    assert!(matches!(rpc.receive(), Reply::Exited(status) if status.code == 3));
}

#[test]
fn further_processes_join_the_container() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    let pid = rpc.created(Request::Create(Box::new(request)));
    let name = process("c", "p");
    let early = exec("c", "early", &["true"], Stdio::default());
    assert_eq!(rpc.error(Request::Exec(Box::new(early))).0, ErrorKind::WrongState);
    rpc.done(Request::Start(ProcessId::init("c")));

    let (stdio, pipes) = sandbox.pipes();
    let script = "hostname; echo $COLOUR; cat /proc/1/comm; grep ^0: /proc/self/cgroup; exit 9";
    rpc.created(Request::Exec(Box::new(exec("c", "p", &["sh", "-c", script], stdio))));
    let again = exec("c", "p", &["true"], Stdio::default());
    assert_eq!(rpc.error(Request::Exec(Box::new(again))).0, ErrorKind::AlreadyExists);
    assert_eq!(rpc.wait(name.clone()).code, 9);
    assert_eq!(rpc.wait(name).code, 9);
    assert_eq!(text(pipes.stdout), "sealed\nblue\nsleep\n0::/\n");

    match rpc.call(Request::Processes { container: "c".into(), table: true }) {
        Reply::Processes { pids, table } => {
            assert_eq!(pids, [pid]);
            assert_eq!((table.len(), table[0].pid, table[0].uid), (1, pid, 0), "{table:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rpc.error(Request::Delete { container: "c".into() }).0, ErrorKind::WrongState);
    rpc.kill("c", libc::SIGKILL);
    assert_eq!(rpc.wait(ProcessId::init("c")).code, 137);
    let gone = Request::Kill { id: ProcessId::init("c"), signal: 15, all: false };
    assert_eq!(rpc.error(gone).0, ErrorKind::WrongState);
    rpc.done(Request::Delete { container: "c".into() });
    assert_eq!(rpc.error(Request::Wait(ProcessId::init("c"))).0, ErrorKind::NotFound);
}

#[test]
fn an_orphan_that_holds_the_output_is_not_waited_for() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    let (stdio, pipes) = sandbox.pipes();
    let script = "sleep 1000 & echo done";
    rpc.created(Request::Exec(Box::new(exec("c", "p", &["sh", "-c", script], stdio))));
    assert_eq!(rpc.wait(process("c", "p")).code, 0);
    assert_eq!(text(pipes.stdout), "done\n");
    rpc.done(Request::Kill { id: ProcessId::init("c"), signal: libc::SIGKILL, all: true });
    assert_eq!(rpc.wait(ProcessId::init("c")).code, 137);
}

#[test]
fn signals_reach_one_or_all() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let token = sandbox.token();
    let mut output = sandbox.stream(&token);
    let script = "trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.05; done";
    let stdio = Stdio { stdout: Some(token), ..Stdio::default() };
    rpc.created(Request::Create(Box::new(sandbox.request("c", &["sh", "-c", script], stdio))));
    rpc.done(Request::Start(ProcessId::init("c")));
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut output, &mut ready).unwrap();
    let bad = Request::Kill { id: ProcessId::init("c"), signal: 65, all: false };
    assert_eq!(rpc.error(bad).0, ErrorKind::InvalidArgument);
    rpc.done(Request::Kill { id: ProcessId::init("c"), signal: libc::SIGUSR1, all: true });
    assert_eq!(rpc.wait(ProcessId::init("c")).code, 5);
    assert_eq!(text(collect(output)), "usr1\n");
}

#[test]
fn terminals_have_a_size_and_can_be_resized() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let token = sandbox.token();
    let terminal = sandbox.stream(&token);
    let script = "tty; stty size; test -c /dev/console && echo console; read line; stty size; \
                  echo \"<$line>\"; exit 4";
    let mut request =
        sandbox.request("c", &[], Stdio { terminal: Some(token), ..Stdio::default() });
    request.spec = changed(&["sh", "-c", script], |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 30, "width": 100});
    });
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Resize { id: ProcessId::init("c"), rows: 31, columns: 101 });
    rpc.done(Request::Start(ProcessId::init("c")));
    let output = collect(terminal.try_clone().unwrap());
    rpc.done(Request::Resize { id: ProcessId::init("c"), rows: 50, columns: 200 });
    std::io::Write::write_all(&mut &terminal, b"hello\n").unwrap();
    assert_eq!(rpc.wait(ProcessId::init("c")).code, 4);
    let output = text(output).replace('\r', "");
    assert!(output.contains("/dev/pts/0\n"), "{output}");
    assert!(output.contains("console\n"), "{output}");
    assert!(output.ends_with("50 200\n<hello>\n"), "{output}");
}

#[test]
fn failures_have_kinds_that_callers_tell_apart() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let create = |args: &[&str]| {
        let request = sandbox.request("c", args, Stdio::default());
        rpc.error(Request::Create(Box::new(request)))
    };
    let (kind, message) = create(&["no-such-program"]);
    assert_eq!(kind, ErrorKind::CommandNotFound, "{message}");
    assert_eq!(message, "exec: \"no-such-program\": executable file not found in $PATH");
    assert_eq!(create(&["/no/such"]).0, ErrorKind::CommandNotFound);
    assert_eq!(create(&["/etc"]).0, ErrorKind::CommandNotExecutable);
    let (kind, message) = create(&["/etc/not-a-program"]);
    assert_eq!(kind, ErrorKind::CommandNotExecutable);
    assert_eq!(message, "exec: \"/etc/not-a-program\": permission denied");
    assert_eq!(create(&[]).0, ErrorKind::InvalidArgument);

    let start = |args: &[&str], name: &str| {
        let request = sandbox.request(name, args, Stdio::default());
        rpc.created(Request::Create(Box::new(request)));
        rpc.error(Request::Start(ProcessId::init(name)))
    };
    assert_eq!(start(&["script"], "s").0, ErrorKind::CommandNotFound);
    assert_eq!(start(&["garbage"], "g").0, ErrorKind::CommandNotExecutable);
    assert_eq!(rpc.wait(ProcessId::init("s")).code, 127);
    assert_eq!(rpc.wait(ProcessId::init("g")).code, 126);

    let mut request = sandbox.request("../c", &["true"], Stdio::default());
    assert_eq!(rpc.error(Request::Create(Box::new(request))).0, ErrorKind::InvalidArgument);
    request = sandbox.request("u", &["true"], Stdio::default());
    request.user = sandbox::user("ghost");
    let (kind, message) = rpc.error(Request::Create(Box::new(request)));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(message.contains("ghost"), "{message}");
    assert_eq!(rpc.error(Request::Start(ProcessId::init("none"))).0, ErrorKind::NotFound);
}

#[test]
fn what_the_agent_does_not_know_is_unsupported() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    frame::write(&mut &rpc.0, &json!({"request": "make_coffee", "milk": true})).unwrap();
    assert!(matches!(rpc.receive(), Reply::Error(e) if e.kind == ErrorKind::Unsupported));
    frame::write(&mut &rpc.0, &json!({"request": "start"})).unwrap();
    assert!(matches!(rpc.receive(), Reply::Error(e) if e.kind == ErrorKind::InvalidArgument));
    let mut request = sandbox.request("c", &["true"], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["linux"]["intelRdt"] = json!({"closID": "guests"});
    });
    let (kind, message) = rpc.error(Request::Create(Box::new(request)));
    assert_eq!(
        (kind, message.as_str()),
        (ErrorKind::Unsupported, "linux.intelRdt is not supported")
    );

    let other = sandbox.raw_rpc();
    assert_eq!(other.hello(VERSION + 1).version, VERSION);
    assert!(matches!(other.receive(), Reply::Error(e) if e.kind == ErrorKind::Unsupported));
}

#[test]
fn the_agent_ends_with_its_host() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    assert_eq!(sandbox.abandon(), 0);
}

#[test]
fn a_container_that_fills_its_memory_is_killed_and_told_of() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    if !sandbox.has_controller("memory") {
        return;
    }
    let (status, ..) = sandbox.run_changed("c", &[], |request| {
        // Grows little by little: a single huge allocation would be refused instead.
        let fill = ["sh", "-c", "x=filling; while :; do x=$x$x; done"];
        request.spec = changed(&fill, |spec| {
            spec["linux"]["resources"] = json!({"memory": {"limit": 32 << 20}});
        });
    });
    assert_eq!((status.code, status.oom_killed), (137, true));
    let event: Event = frame::read(
        &mut sandbox
            .ready()
            .as_fd()
            .try_clone_to_owned()
            .map(std::os::unix::net::UnixStream::from)
            .unwrap(),
    )
    .unwrap();
    assert_eq!(event, Event::OutOfMemory { container: "c".into() });
}
