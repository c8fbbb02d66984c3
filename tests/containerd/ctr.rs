//! Containers by `ctr`, one to a sandbox.

use crate::lab::{IMAGE, Lab, Runtime, until};
use crate::support::{Finished, code};
use crate::{lab, needs_groups};

/// Says that it is there, and ends with 3 when it is asked to.
const WAITS: &str =
    "trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 1000 & wait $!; done";

/// Starts a container that waits.
#[track_caller]
fn detached(lab: &Lab, options: &[&str], id: &str) {
    let options = [&["--detach"], options].concat();
    lab.ok(&lab.run_args(&options, id, &["sh", "-c", WAITS]));
}

/// What `task ls` says of a container.
fn status(lab: &Lab, id: &str) -> String {
    let list = lab.ok(&["task", "ls"]);
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
    line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or("none").to_owned()
}

/// Ends a container, and removes it.
#[track_caller]
fn remove(lab: &Lab, id: &str) {
    let _ = lab.output(&["task", "kill", "--signal", "SIGKILL", id]);
    until("the task has stopped", || status(lab, id) != "RUNNING");
    let _ = lab.output(&["task", "delete", id]);
    lab.ok(&["container", "delete", id]);
    lab.nothing_left(id);
}

#[test]
fn run_gives_code_output_and_input() {
    let lab = lab!();
    let done = lab.run(
        &["--env", "A=1", "--cwd", "/tmp"],
        "run-code",
        "echo $A $(pwd); echo err >&2; exit 42",
    );
    done.gives(42, "1 /tmp\n");
    assert_eq!(done.stderr, "err\n");
    lab.nothing_left("run-code");
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let args = lab.run_args(&["--rm"], "run-cat", &["cat"]);
    let output = lab.with_input(&args, bytes.clone());
    let done = Finished::of(output.clone());
    assert!(code(output.status) == 0 && output.stdout == bytes, "{}{}", done.stderr, lab.told());
    lab.nothing_left("run-cat");
    let done = lab.run(&["--read-only"], "run-closed", "echo x > /file || echo refused");
    done.gives(0, "refused\n");
}

#[test]
fn other_snapshotters_will_do() {
    let lab = lab!();
    let done = lab.run(&["--snapshotter", "native"], "native", "echo x > /file; cat /file");
    done.gives(0, "x\n");
    lab.nothing_left("native");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let lab = lab!();
    let args = lab.run_args(&["--rm"], "no-program", &["no-such-program"]);
    let done = lab.output(&args);
    assert!(done.code != 0 && done.stderr.contains("no-such-program"), "{done:?}");
    let _ = lab.output(&["container", "delete", "no-program"]);
    lab.nothing_left("no-program");
}

#[test]
fn a_detached_container_is_worked_with_and_killed() {
    let lab = lab!();
    detached(&lab, &[], "worked");
    assert_eq!(status(&lab, "worked"), "RUNNING");
    let exec = |id: &str, command: &[&str]| {
        lab.output(&[&["task", "exec", "--exec-id", id, "worked"], command].concat())
    };
    exec("one", &["sh", "-c", "echo in; echo err >&2; exit 7"]).gives(7, "in\n");
    let args = ["task", "exec", "--exec-id", "cat", "worked", "cat"];
    assert_eq!(lab.with_input(&args, b"through".to_vec()).stdout, b"through");
    let done = exec("none", &["no-such-program"]);
    assert!(done.code != 0 && done.stderr.contains("no-such-program"), "{done:?}");
    exec("again", &["pidof", "sh"]).gives(0, "1\n");
    let pids = lab.ok(&["task", "ps", "worked"]);
    assert!(pids.lines().count() >= 2, "{pids}");
    let metrics = lab.ok(&["task", "metrics", "worked"]);
    assert!(metrics.contains("memory.usage"), "{metrics}");
    lab.ok(&["task", "pause", "worked"]);
    assert_eq!(status(&lab, "worked"), "PAUSED");
    lab.ok(&["task", "resume", "worked"]);
    assert_eq!(status(&lab, "worked"), "RUNNING");
    lab.ok(&["task", "kill", "--signal", "SIGTERM", "worked"]);
    until("it has stopped", || status(&lab, "worked") == "STOPPED");
    let done = lab.output(&["task", "delete", "worked"]);
    assert!(done.stderr.contains("exit code 3"), "{done:?}");
    lab.ok(&["container", "delete", "worked"]);
    lab.nothing_left("worked");
}

#[test]
fn waiting_for_a_container_gives_its_code() {
    let lab = lab!();
    let started = lab.run_args(&["--rm"], "waited", &["sh", "-c", WAITS]);
    let mut child = lab.command(&started).stdout(std::process::Stdio::piped()).spawn().unwrap();
    crate::support::read_until(child.stdout.as_mut().unwrap(), "ready\n");
    lab.ok(&["task", "kill", "--signal", "SIGKILL", "waited"]);
    assert_eq!(code(child.wait().unwrap()), 137);
    lab.nothing_left("waited");
}

#[test]
fn a_killed_exec_ends_alone() {
    let lab = lab!();
    detached(&lab, &[], "exec-kill");
    let args = ["task", "exec", "--exec-id", "sleeps", "exec-kill", "sh", "-c", WAITS];
    let mut child = lab.command(args).stdout(std::process::Stdio::piped()).spawn().unwrap();
    crate::support::read_until(child.stdout.as_mut().unwrap(), "ready\n");
    lab.ok(&["task", "kill", "--exec-id", "sleeps", "--signal", "SIGTERM", "exec-kill"]);
    assert_eq!(code(child.wait().unwrap()), 3);
    assert_eq!(status(&lab, "exec-kill"), "RUNNING");
    remove(&lab, "exec-kill");
}

#[test]
fn terminals() {
    let lab = lab!();
    // ctr wants a terminal for one.
    let in_terminal = |args: Vec<&str>| {
        let line = [vec!["ctr", "-n", lab.space()], args].concat().join(" ");
        let mut command = lab.command(["version"]);
        let address = command.get_envs().find(|(name, _)| *name == "CONTAINERD_ADDRESS");
        let address = address.unwrap().1.unwrap().to_owned();
        command = std::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env("CONTAINERD_ADDRESS", address).stdin(std::process::Stdio::null());
        Finished::of(command.output().unwrap())
    };
    let done = in_terminal(lab.run_args(&["--rm", "--tty"], "tty", &["tty"]));
    assert!(done.code == 0 && done.stdout.contains("/dev/pts/0\r"), "{done:?}{}", lab.told());
    detached(&lab, &[], "tty-exec");
    let done = in_terminal(vec!["task", "exec", "--tty", "--exec-id", "t", "tty-exec", "tty"]);
    assert!(done.code == 0 && done.stdout.contains("/dev/pts/0\r"), "{done:?}{}", lab.told());
    remove(&lab, "tty-exec");
    lab.nothing_left("tty");
}

#[test]
fn two_at_once_know_nothing_of_each_other() {
    let lab = lab!();
    detached(&lab, &[], "twin-a");
    detached(&lab, &[], "twin-b");
    for id in ["twin-a", "twin-b"] {
        let write = format!("echo {id} > /who; cat /who");
        lab.output(&["task", "exec", "--exec-id", "w", id, "sh", "-c", &write])
            .gives(0, &format!("{id}\n"));
    }
    lab.output(&["task", "exec", "--exec-id", "r", "twin-a", "cat", "/who"]).gives(0, "twin-a\n");
    remove(&lab, "twin-a");
    assert_eq!(status(&lab, "twin-b"), "RUNNING");
    remove(&lab, "twin-b");
}

#[test]
fn mounts_are_seen_inside() {
    let lab = lab!();
    let host = lab.new_folder("ctr-mount");
    std::fs::write(host.join("file"), "from the host\n").unwrap();
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", host.display());
    let closed = format!("type=bind,src={},dst=/closed,options=rbind:ro", host.display());
    let done = lab.run(
        &["--mount", &mount, "--mount", &closed],
        "mounts",
        "cat /data/file; echo inside > /data/new; echo x > /closed/new || echo refused",
    );
    done.gives(0, "from the host\nrefused\n");
    assert_eq!(std::fs::read_to_string(host.join("new")).unwrap(), "inside\n");
}

#[test]
fn limits_are_the_containers() {
    needs_groups!();
    let lab = lab!();
    let groups = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro";
    let done = lab.run(
        &["--memory-limit", "67108864", "--mount", groups],
        "limits",
        "cat /sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup)/memory.max",
    );
    done.gives(0, "67108864\n");
}

#[test]
fn events_tell_a_life() {
    let lab = lab!();
    let mut events = lab.command(["events"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Until it is known to listen, containers are run whose events it may miss.
    let mut read = String::new();
    let out = events.stdout.take().unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    until("events are told", || {
        lab.ok(&["namespaces", "label", lab.space(), "listening=yes"]);
        lines.recv_timeout(std::time::Duration::from_millis(200)).is_ok()
    });
    lab.run(&[], "eventful", "exit 5").gives(5, "");
    while !read.contains("/containers/delete") {
        let line = lines.recv_timeout(std::time::Duration::from_secs(30)).expect(&read);
        if line.contains("eventful") {
            read.push_str(&line);
            read.push('\n');
        }
    }
    events.kill().unwrap();
    events.wait().unwrap();
    reader.join().unwrap();
    let places: Vec<_> = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
        .map(|topic| read.find(topic))
        .into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{read}");
    assert!(read.contains(r#""exit_status":5"#), "{read}");
}

#[test]
fn a_network_of_plugins() {
    let lab = lab!();
    // ctr looks for both in these places only: they are its own for as long as it runs.
    let script = format!(
        "mount -t tmpfs opt /opt && mkdir -p /opt/cni && ln -s /usr/lib/cni /opt/cni/bin \
         && mkdir -p /etc/cni/net.d && mount --bind {} /etc/cni/net.d \
         && exec ctr -n {} run --cni --rm --runtime {} {IMAGE} network sh -c \
            'ip -4 addr show eth0 | grep -c inet; ip route | grep -c default; ping -c 1 -q $0 > /dev/null && echo reached' \
            $(echo 127.0.0.1)",
        lab.text("cni"),
        lab.space(),
        lab.runtime.kind(),
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", &script]);
    command.env("CONTAINERD_ADDRESS", lab.path("containerd.sock"));
    let done = Finished::of(command.output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (0, "1\n1\nreached\n"), "{done:?}{}", lab.told());
    lab.nothing_left("network");
}

#[test]
fn the_hosts_network_is_refused() {
    let lab = lab!();
    if lab.runtime == Runtime::Runc {
        return;
    }
    let done = lab.run(&["--net-host"], "net-host", "true");
    assert!(done.code != 0 && done.stderr.contains("network"), "{done:?}");
    let _ = lab.output(&["container", "delete", "net-host"]);
    lab.nothing_left("net-host");
}
