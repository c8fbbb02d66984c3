//! `--network container:NAME`: a container in the sandbox of another, whose network it shares.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::needs_sandboxes;
use crate::support::{Ampoule, read_until};

/// Ends at once when it is asked to.
const WAITS: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";

/// Says what is the network's, a line each.
const NETWORK: &str = "readlink /proc/self/ns/net; cut -d: -f1 /proc/net/dev; hostname; \
                       cat /etc/hosts /etc/hostname /etc/resolv.conf";

/// Starts a container in the background, and waits until it is ready for signals.
fn start(ampoule: &Ampoule, name: &str, options: &[&str]) -> String {
    let rest = ["busybox", "sh", "-c", WAITS];
    let id = ampoule.ok(&[&["run", "-d", "--name", name], options, &rest].concat());
    until_ready(ampoule, name);
    id.trim().to_owned()
}

fn until_ready(ampoule: &Ampoule, name: &str) {
    let mut follower = ampoule.spawn(&["logs", "-f", name]);
    read_until(follower.stdout.as_mut().unwrap(), "ready\n");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// What `inspect` says of a container.
fn told(ampoule: &Ampoule, name: &str) -> Value {
    let told: Value = serde_json::from_str(&ampoule.ok(&["inspect", name])).unwrap();
    told[0].clone()
}

/// Waits until so many containers share the sandbox of the one with this id.
fn until_joined(ampoule: &Ampoule, id: &str, number: usize) {
    let state = ampoule.root().join("containers").join(id).join("state.json");
    loop {
        let state: Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
        if state["joined"].as_array().unwrap().len() == number {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn two_containers_share_a_network_and_nothing_else() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let host = start(&ampoule, "host", &[]);
    let network = ampoule.ok(&["exec", "host", "sh", "-c", NETWORK]);
    let joined = ampoule.shell(&["--network", "container:host"], "busybox", NETWORK);
    joined.gives(0, &network);

    let serve = "echo ready; while :; do echo from the joiner | nc -l -p 8000; done";
    let run = ["run", "-d", "--name", "side", "--network", "container:host"];
    ampoule.ok(&[&run[..], &["--memory", "64m", "busybox", "sh", "-c", serve]].concat());
    until_ready(&ampoule, "side");
    let ask = "until nc 127.0.0.1 8000 < /dev/null; do sleep 0.1; done";
    ampoule.output(&["exec", "host", "sh", "-c", ask]).gives(0, "from the joiner\n");
    // All else is its own: processes, files, and what it may take.
    let own = "for kind in pid mnt ipc cgroup uts; do readlink /proc/self/ns/$kind; done";
    let of_host = ampoule.ok(&["exec", "host", "sh", "-c", own]);
    let of_side = ampoule.ok(&["exec", "side", "sh", "-c", own]);
    assert_eq!((of_host.lines().count(), of_side.lines().count()), (5, 5));
    for (one, other) in of_host.lines().zip(of_side.lines()) {
        assert_ne!(one, other);
    }
    ampoule.ok(&["exec", "side", "touch", "/mine"]);
    ampoule.output(&["exec", "host", "test", "-e", "/mine"]).gives(1, "");
    let limit = ampoule.ok(&["exec", "side", "cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limit, format!("{}\n", 64 << 20));

    let side = told(&ampoule, "side");
    assert_eq!(side["HostConfig"]["NetworkMode"], format!("container:{host}"));
    assert_eq!(side["Ampoule"]["Sandbox"], host.as_str());
    // Of the sandboxes that there are, none is the joiner's.
    ampoule.output(&["fork", "side"]).fails(125, &["side", "shares"]);
    ampoule.output(&["fork", "host"]).fails(125, &["host", "share"]);
    ampoule.ok(&["rm", "-f", "side"]);
    until_joined(&ampoule, &host, 0);
    ampoule.ok(&["rm", "-f", "host"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_joiner_has_a_life_of_its_own() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let host = start(&ampoule, "host", &[]);
    start(&ampoule, "side", &["--network", "container:host"]);
    assert!(ampoule.ok(&["top", "side", "-o", "pid,args"]).contains("sleep"));
    ampoule.output(&["pause", "side"]).gives(0, "side\n");
    ampoule.output(&["exec", "side", "true"]).fails(125, &["paused"]);
    ampoule.output(&["exec", "host", "true"]).gives(0, "");
    ampoule.output(&["unpause", "side"]).gives(0, "side\n");
    ampoule.output(&["update", "--pids-limit", "40", "-m", "100m", "side"]).gives(0, "side\n");
    let limit = ampoule.ok(&["exec", "side", "cat", "/sys/fs/cgroup/pids.max"]);
    assert_eq!(limit, "40\n");
    ampoule.output(&["update", "-m", "8g", "side"]).fails(125, &["cannot grow"]);
    let stats = ampoule.ok(&["stats", "--no-stream", "--format", "json", "side"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(stats["Guest"]["Pss"].as_u64().is_none_or(|bytes| bytes > 0), "{stats}");
    ampoule.output(&["rename", "side", "car"]).gives(0, "");
    ampoule.ok(&["exec", "car", "sh", "-c", "echo kept > /note"]);
    // What it wrote is on a disk of its own, and is there again.
    ampoule.output(&["restart", "car"]).gives(0, "car\n");
    ampoule.output(&["exec", "car", "cat", "/note"]).gives(0, "kept\n");
    ampoule.output(&["kill", "car"]).gives(0, "car\n");
    ampoule.output(&["wait", "car"]).gives(0, "137\n");
    ampoule.output(&["rm", "car"]).gives(0, "car\n");
    until_joined(&ampoule, &host, 0);
    ampoule.ok(&["rm", "-f", "host"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn slots_are_free_again_after_each_that_joins() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    start(&ampoule, "host", &[]);
    let join = ["--network", "container:host"];
    for number in 0..5 {
        let script = format!("echo {number} > /file; cat /file");
        ampoule.shell(&join, "busybox", &script).gives(0, &format!("{number}\n"));
        let run = ["run", "--name", "side", "--network", "container:host", "busybox", "false"];
        ampoule.output(&run).gives(1, "");
        ampoule.ok(&["rm", "side"]);
    }
    ampoule.shell(&join, "debian", "exec no-such").fails(127, &[]);
    // Two without a disk of their own, and no more.
    start(&ampoule, "one", &["--rm", "--network", "container:host"]);
    start(&ampoule, "two", &["--rm", "--network", "container:one"]);
    ampoule.shell(&join, "busybox", "true").fails(125, &["no free disk slot"]);
    ampoule.ok(&["stop", "one"]);
    ampoule.shell(&join, "busybox", "echo room").gives(0, "room\n");
    ampoule.output(&["exec", "host", "true"]).gives(0, "");
    ampoule.output(&["exec", "two", "true"]).gives(0, "");
    ampoule.ok(&["rm", "-f", "two", "host"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn the_end_of_the_sandbox_is_the_joiners() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    start(&ampoule, "host", &[]);
    let id = start(&ampoule, "side", &["--network", "container:host"]);
    ampoule.ok(&["exec", "side", "sh", "-c", "echo written > /file"]);
    ampoule.ok(&["stop", "host"]);
    ampoule.output(&["wait", "side"]).gives(0, "137\n");
    let error = told(&ampoule, &id)["State"]["Error"].to_string();
    assert!(error.contains("host") && error.contains("has ended"), "{error}");
    let words = ["cannot join network of a non running container"];
    ampoule.output(&["start", "side"]).fails(125, &words);
    ampoule.ok(&["start", "host"]);
    ampoule.ok(&["start", "side"]);
    ampoule.output(&["exec", "side", "cat", "/file"]).gives(0, "written\n");
    // The same where nobody could tell.
    let keeper = told(&ampoule, "host")["Ampoule"]["Keeper"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(keeper).unwrap()), Signal::SIGKILL).unwrap();
    ampoule.output(&["wait", "side"]).gives(0, "137\n");
    ampoule.ok(&["rm", "-f", "side", "host"]);
}

#[test]
fn a_joiner_whose_keeper_is_killed_is_put_out() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let host = start(&ampoule, "host", &[]);
    start(&ampoule, "side", &["--network", "container:host"]);
    until_joined(&ampoule, &host, 1);
    let keeper = told(&ampoule, "side")["Ampoule"]["Keeper"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(keeper).unwrap()), Signal::SIGKILL).unwrap();
    until_joined(&ampoule, &host, 0);
    assert_eq!(told(&ampoule, "side")["State"]["ExitCode"], 137);
    ampoule.output(&["exec", "host", "true"]).gives(0, "");
    // Its disk is free: it can be started again.
    ampoule.ok(&["start", "side"]);
    ampoule.output(&["exec", "side", "true"]).gives(0, "");
    ampoule.ok(&["rm", "-f", "side", "host"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_a_joiner_cannot_have_is_refused() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let id = ampoule.ok(&["create", "--name", "host", "busybox", "sh", "-c", WAITS]);
    let refused = |options: &[&str], words: &[&str]| {
        let options = [&["--network", "container:host"], options].concat();
        ampoule.shell(&options, "busybox", "true").fails(125, words);
    };
    let words = format!("cannot join network of a non running container: {}", id.trim());
    refused(&[], &[&words]);
    ampoule.ok(&["start", "host"]);
    let conflicts = [
        (["--hostname", "x"], "hostname"),
        (["-p", "80:80"], "port publishing"),
        (["--dns", "192.0.2.1"], "dns"),
        (["--ip", "192.0.2.1"], "IP address"),
        (["--network-alias", "x"], "network-alias"),
        (["--add-host", "a:192.0.2.1"], "custom host-to-IP mapping"),
    ];
    for (options, what) in conflicts {
        refused(&options, &[&format!("conflicting options: {what} and the network mode")]);
    }
    refused(&["-v", "/tmp:/x"], &["cannot mount /x", "--tmpfs"]);
    refused(&["-m", "4g"], &["cannot grow"]);
    refused(&["--cpus", "2"], &["cannot grow"]);
    ampoule.output(&["run", "--network", "container:no-such", "busybox"]).fails(125, &["no-such"]);
    let tmpfs = ["--network", "container:host", "--tmpfs", "/x"];
    ampoule.shell(&tmpfs, "busybox", "grep -c ' /x tmpfs' /proc/mounts").gives(0, "1\n");

    let cold = ["run", "-d", "--rm", "--start", "cold", "--name", "cold", "busybox"];
    ampoule.ok(&[&cold[..], &["sh", "-c", WAITS]].concat());
    let join = ["--network", "container:cold"];
    ampoule.shell(&join, "busybox", "true").fails(125, &["cold has no free disk slot"]);
    ampoule.ok(&["rm", "-f", "cold", "host"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
