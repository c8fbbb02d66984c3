//! A container's life in the words of docker: made, started, stopped, started again, removed.

use std::fs;
use std::io::Write;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::needs_sandboxes;
use crate::support::{Ampoule, code, read_until};

/// Ends with 3 when it is asked to.
const WAITS: &str = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done";

/// Waits until a container has said so often that it is ready: before, it does not heed a signal.
fn until_ready(ampoule: &Ampoule, name: &str, times: usize) {
    let mut follower = ampoule.spawn(&["logs", "-f", name]);
    for _ in 0..times {
        read_until(follower.stdout.as_mut().unwrap(), "ready\n");
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Actions of all events so far, `exec`s left out.
fn actions(ampoule: &Ampoule) -> Vec<String> {
    let until = jiff::Timestamp::now().to_string();
    let text = ampoule.ok(&["events", "--since", "1h", "--until", &until, "--format", "json"]);
    let action = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["Action"].as_str().unwrap().to_owned()
    };
    text.lines().map(action).filter(|action| !action.starts_with("exec_")).collect()
}

#[test]
fn a_container_is_made_started_waited_for_stopped_and_started_again() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let id = ampoule.ok(&["create", "--name", "job", "busybox", "sh", "-c", WAITS]);
    let id = id.trim();
    assert!(ampoule.ok(&["ps", "-a"]).contains("Created"));
    assert_eq!(ampoule.ok(&["ps", "-q"]), "");
    ampoule.output(&["exec", "job", "true"]).fails(125, &["not started yet"]);
    ampoule.output(&["kill", "job"]).fails(125, &["not started yet"]);
    ampoule.output(&["start", "job"]).gives(0, "job\n");
    ampoule.output(&["start", "job"]).gives(0, "job\n");
    ampoule.output(&["start", "-a", "job"]).fails(125, &["running"]);

    until_ready(&ampoule, "job", 1);
    // By its id: it may look after the name has changed.
    let waiting = ampoule.spawn(&["wait", id]);
    ampoule.output(&["rename", "job", "work"]).gives(0, "");
    ampoule.output(&["stop", "work"]).gives(0, "work\n");
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"3\n");
    ampoule.output(&["wait", "work"]).gives(0, "3\n");
    assert_eq!(ampoule.ok(&["logs", "work"]), "ready\nbye\n");
    ampoule.output(&["stop", "work"]).gives(0, "work\n");

    ampoule.output(&["restart", "work"]).gives(0, "work\n");
    until_ready(&ampoule, "work", 2);
    ampoule.output(&["kill", "-s", "TERM", "work"]).gives(0, "work\n");
    ampoule.output(&["wait", "work"]).gives(0, "3\n");
    ampoule.output(&["rm", id]).gives(0, &format!("{id}\n"));
    ampoule.output(&["start", "work"]).fails(125, &["no such container"]);
    assert_eq!(ampoule.left(), [""; 0]);
    let told = ["create", "start", "rename", "die", "stop", "start", "kill", "die", "destroy"];
    assert_eq!(actions(&ampoule), told);
}

#[test]
fn one_that_cannot_be_started_says_why_and_stays() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["create", "--name", "bad", "busybox", "no-such"]);
    ampoule.output(&["start", "bad"]).fails(127, &["no-such"]);
    ampoule.output(&["start", "-a", "bad"]).fails(127, &["no-such"]);
    assert!(ampoule.ok(&["ps", "-a"]).contains("Created"));
    ampoule.output(&["rm", "bad"]).gives(0, "bad\n");
    ampoule.output(&["create", "--pull", "never", "no-such-image"]).fails(125, &["no-such-image"]);
    ampoule.output(&["run", "--rm", "--restart", "always", "busybox"]).fails(125, &["--restart"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_paused_container_stands_still() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "trap 'exit 4' TERM; while :; do cat /proc/uptime; sleep 0.1; done";
    ampoule.ok(&["run", "-d", "--name", "clock", "busybox", "sh", "-c", script]);
    ampoule.output(&["unpause", "clock"]).fails(125, &["not paused"]);
    ampoule.output(&["pause", "clock"]).gives(0, "clock\n");
    assert!(ampoule.ok(&["ps"]).contains("(Paused)"));
    ampoule.output(&["pause", "clock"]).fails(125, &["paused"]);
    ampoule.output(&["exec", "clock", "true"]).fails(125, &["paused"]);
    ampoule.output(&["start", "clock"]).fails(125, &["paused"]);
    let still = ampoule.ok(&["logs", "clock"]);
    assert_eq!(ampoule.ok(&["logs", "clock"]), still);
    ampoule.output(&["unpause", "clock"]).gives(0, "clock\n");
    let mut follower = ampoule.spawn(&["logs", "-f", "--tail", "0", "clock"]);
    read_until(follower.stdout.as_mut().unwrap(), "\n");
    ampoule.output(&["pause", "clock"]).gives(0, "clock\n");
    ampoule.output(&["stop", "-t", "20", "clock"]).gives(0, "clock\n");
    follower.wait().unwrap();
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (4)"));
    ampoule.ok(&["rm", "clock"]);
}

#[test]
fn streams_are_attached_to() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "while read -r line; do echo \"got $line\"; echo \"err $line\" >&2; \
                  [ \"$line\" != end ] || exit 6; done";
    ampoule.ok(&["run", "-di", "--name", "talks", "busybox", "sh", "-c", script]);
    let mut listener = ampoule.spawn(&["attach", "--no-stdin", "talks"]);
    let mut first = ampoule.spawn(&["attach", "talks"]);
    // One who goes leaves the others, and the program, alone.
    first.stdin.as_mut().unwrap().write_all(b"one\n").unwrap();
    read_until(first.stdout.as_mut().unwrap(), "got one\n");
    drop(first.stdin.take());
    first.kill().unwrap();
    first.wait().unwrap();
    let second = ampoule.with_input(&["attach", "talks"], b"two\nend\n".to_vec());
    assert_eq!(code(second.status), 6);
    assert_eq!(String::from_utf8_lossy(&second.stdout), "got two\ngot end\n");
    assert_eq!(String::from_utf8_lossy(&second.stderr), "err two\nerr end\n");
    assert_eq!(code(listener.wait().unwrap()), 6);
    assert_eq!(ampoule.ok(&["logs", "talks"]), "got one\ngot two\ngot end\n");
    ampoule.output(&["attach", "talks"]).fails(125, &["not running"]);
    let started = ampoule.with_input(&["start", "-ai", "talks"], b"end\n".to_vec());
    assert_eq!((code(started.status), started.stdout.as_slice()), (6, &b"got end\n"[..]));
}

#[test]
fn restart_policies_are_kept() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let policy = ["run", "-d", "--restart", "on-failure:2", "--name", "fails", "busybox"];
    ampoule.ok(&[&policy[..], &["sh", "-c", "echo again; exit 7"]].concat());
    // Ends with the container's keeper, which is when its restarts are used up.
    assert_eq!(ampoule.ok(&["logs", "-f", "fails"]), "again\nagain\nagain\n");
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (7)"));
    ampoule.output(&["wait", "fails"]).gives(0, "7\n");

    ampoule.ok(&[
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        "lives",
        "busybox",
        "sh",
        "-c",
        WAITS,
    ]);
    until_ready(&ampoule, "lives", 1);
    ampoule.ok(&["kill", "-s", "TERM", "lives"]);
    until_ready(&ampoule, "lives", 2);
    ampoule.output(&["stop", "lives"]).gives(0, "lives\n");
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (3)"));
    ampoule.output(&["rm", "fails", "lives"]).gives(0, "fails\nlives\n");
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_is_damaged_is_named_and_set_aside() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let id = ampoule.ok(&["create", "--name", "whole", "busybox", "true"]);
    let spoiled = ampoule.ok(&["create", "--name", "spoiled", "busybox", "true"]);
    let folder = ampoule.root().join("containers").join(spoiled.trim());
    fs::write(folder.join("state.json"), "{\"version\": 1, \"id\": \"../../etc\"}").unwrap();
    let listed = ampoule.output(&["ps", "-aq"]);
    assert_eq!(listed.stdout.trim(), &id[..12]);
    assert!(listed.stderr.contains(spoiled.trim()), "{listed:?}");
    ampoule.output(&["start", "spoiled"]).fails(125, &["damaged"]);
    // The next start clears up.
    ampoule.ok(&["run", "--rm", "busybox", "true"]);
    assert_eq!(ampoule.output(&["ps", "-aq"]).stderr, "");
    assert!(ampoule.root().join("damaged").join(spoiled.trim()).is_dir());
    let record = ampoule.root().join("containers").join(id.trim()).join("config.json");
    fs::write(record, "{").unwrap();
    ampoule.output(&["start", "whole"]).fails(125, &["damaged", "config.json"]);
    ampoule.output(&["rm", "whole"]).gives(0, "whole\n");
}

#[test]
fn a_full_log_is_set_aside() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let options = ["run", "-d", "--name", "talks", "--log-opt", "max-size=10k"];
    let script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done";
    let rest = ["--log-opt", "max-file=2", "busybox", "sh", "-c", script];
    let id = ampoule.ok(&[&options[..], &rest].concat());
    ampoule.ok(&["wait", "talks"]);
    let folder = ampoule.root().join("containers").join(id.trim());
    for file in ["log.json", "log.json.1"] {
        assert!(fs::metadata(folder.join(file)).unwrap().len() <= 10 << 10);
    }
    assert!(!folder.join("log.json.2").exists());
    assert!(ampoule.ok(&["logs", "talks"]).ends_with("line 999\n"));
    assert_eq!(ampoule.ok(&["logs", "--tail", "2", "talks"]), "line 998\nline 999\n");
    ampoule.ok(&["rm", "talks"]);
}

#[test]
fn a_restarting_container_whose_keeper_is_killed_is_told_and_removed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let policy = ["run", "-d", "--restart", "always", "--name", "loop", "busybox", "false"];
    ampoule.ok(&policy);
    for pid in ampoule.processes() {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    while !ampoule.processes().is_empty() {
        std::thread::yield_now();
    }
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited ("));
    ampoule.output(&["rm", "-f", "loop"]).gives(0, "loop\n");
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn health_is_checked() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "touch /tmp/well; echo up; while :; do sleep 1000; done";
    let options = ["run", "-d", "--name", "web", "--health-cmd", "cat /tmp/well && echo fine"];
    let times = ["--health-interval", "200ms", "--health-retries", "2"];
    ampoule.ok(&[&options[..], &times, &["busybox", "sh", "-c", script]].concat());
    let mut events = ampoule.spawn(&["events", "--since", "1h", "--format", "json"]);
    read_until(events.stdout.as_mut().unwrap(), "health_status: healthy");
    assert!(ampoule.ok(&["ps"]).contains("(healthy)"));
    ampoule.ok(&["exec", "web", "rm", "/tmp/well"]);
    read_until(events.stdout.as_mut().unwrap(), "health_status: unhealthy");
    events.kill().unwrap();
    events.wait().unwrap();
    let told: Value = serde_json::from_str(&ampoule.ok(&["inspect", "web"])).unwrap();
    let health = &told[0]["State"]["Health"];
    assert_eq!(health["Status"], "unhealthy");
    let log = health["Log"].as_array().unwrap();
    assert!(log.iter().any(|check| check["ExitCode"] == 1), "{health}");
    assert!(health["FailingStreak"].as_u64().unwrap() >= 2, "{health}");
    assert_eq!(ampoule.ok(&["ps", "-q", "--filter", "health=unhealthy"]).lines().count(), 1);
    ampoule.ok(&["rm", "-f", "web"]);
}

#[test]
fn what_is_known_of_a_container_is_told_and_can_be_changed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let options =
        ["run", "-d", "--name", "web", "-m", "128m", "--label", "tier=front", "-e", "A=1"];
    let id =
        ampoule.ok(&[&options[..], &["--pids-limit", "50", "busybox", "sh", "-c", WAITS]].concat());
    let inspect = || -> Value {
        let told: Value = serde_json::from_str(&ampoule.ok(&["inspect", "web"])).unwrap();
        told[0].clone()
    };
    until_ready(&ampoule, "web", 1);
    let told = inspect();
    assert_eq!(told["Id"], id.trim());
    assert_eq!((&told["Name"], &told["State"]["Status"]), (&"/web".into(), &"running".into()));
    assert_eq!(told["Path"], "sh");
    assert_eq!(told["HostConfig"]["Memory"], 128 << 20);
    assert_eq!(told["Config"]["Labels"]["tier"], "front");
    assert_eq!(told["HostConfig"]["RestartPolicy"]["Name"], "no");
    assert!(told["State"]["Pid"].as_i64().unwrap() > 1);
    assert_eq!(ampoule.ok(&["ps", "-q", "--filter", "label=tier=front"]).trim(), &id[..12]);
    assert_eq!(ampoule.ok(&["ps", "-q", "--filter", "label=tier=back"]), "");
    assert!(ampoule.ok(&["top", "web", "-o", "pid,args"]).contains("sleep"));

    let change = ["update", "--pids-limit", "60", "-m", "64m", "--restart", "always", "web"];
    ampoule.output(&change).gives(0, "web\n");
    let limit =
        ampoule.ok(&["exec", "web", "cat", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limit, format!("60\n{}\n", 64 << 20));
    ampoule.output(&["update", "-m", "8g", "web"]).fails(125, &["cannot grow"]);
    let told = inspect();
    assert_eq!(told["HostConfig"]["RestartPolicy"]["Name"], "always");
    ampoule.ok(&["kill", "-s", "TERM", "web"]);
    until_ready(&ampoule, "web", 2);
    ampoule.ok(&["stop", "web"]);
    let told = inspect();
    assert_eq!(
        (&told["State"]["Status"], &told["State"]["ExitCode"]),
        (&"exited".into(), &3.into())
    );
    assert_eq!(told["RestartCount"], 1);
    ampoule.output(&["inspect", "nothing"]).fails(125, &["no such container"]);
}

#[test]
fn what_it_has_written_is_there_when_it_is_started_again() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "cat /note 2>/dev/null; date > /dev/null; echo written >> /note";
    ampoule.ok(&["run", "--name", "notes", "busybox", "sh", "-c", script]);
    ampoule.output(&["start", "-a", "notes"]).gives(0, "written\n");
    ampoule.output(&["start", "-a", "notes"]).gives(0, "written\nwritten\n");
    ampoule.ok(&["rm", "notes"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn memory_that_is_not_there_is_told() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "tail /dev/zero";
    let args = ["run", "-d", "--name", "eats", "-m", "16m", "busybox", "sh", "-c", script];
    ampoule.ok(&args);
    ampoule.ok(&["wait", "eats"]);
    let told: Value = serde_json::from_str(&ampoule.ok(&["inspect", "eats"])).unwrap();
    assert_eq!(told[0]["State"]["OOMKilled"], true);
    assert_ne!(told[0]["State"]["ExitCode"], 0);
    assert!(actions(&ampoule).contains(&"oom".to_owned()));
    ampoule.ok(&["rm", "eats"]);
}
