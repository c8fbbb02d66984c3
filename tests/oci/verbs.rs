//! What callers ask of containers beside their life: limits, counts, lists.

use std::io::{BufRead, BufReader, Write};

use serde_json::Value;

use crate::lab::{Lab, WAITS};
use crate::needs_sandboxes;
use crate::support::{Finished, read_until};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_container_is_paused_and_resumed_in_the_states_that_allow_it() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    lab.output(&["pause", "c"]).fails(1, &["does not exist"]);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    lab.output(&["resume", "c"]).fails(1, &["container not paused"]);
    lab.ok(&["pause", "c"]);
    assert_eq!(lab.status("c"), "paused");
    lab.output(&["pause", "c"]).fails(1, &["already paused"]);
    lab.output(&["exec", "c", "true"]).fails(255, &["cannot exec in a paused container"]);
    lab.output(&["start", "c"]).fails(1, &["paused"]);
    lab.ok(&["resume", "c"]);
    assert_eq!(lab.status("c"), "running");
    lab.output(&["exec", "c", "true"]).gives(0, "");
    lab.ok(&["delete", "-f", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn limits_are_changed_and_what_the_machine_lacks_is_refused() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    lab.change(|config| {
        let kinds = config["linux"]["namespaces"].as_array_mut().unwrap();
        kinds.push(serde_json::json!({"type": "cgroup"}));
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(serde_json::json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"],
        }));
    });
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    lab.ok(&["update", "--pids-limit", "77", "--memory", "100m", "c"]);
    let limits = |file: &str| lab.ok(&["exec", "c", "cat", &format!("/sys/fs/cgroup/{file}")]);
    assert_eq!(limits("pids.max"), "77\n");
    assert_eq!(limits("memory.max"), format!("{}\n", 100 << 20));
    // As containerd and docker do: on standard input.
    let mut update = lab.spawn(&["update", "--resources", "-", "c"]);
    update.stdin.take().unwrap().write_all(br#"{"pids":{"limit":55}}"#).unwrap();
    Finished::of(update.wait_with_output().unwrap()).gives(0, "");
    assert_eq!(limits("pids.max"), "55\n");
    assert_eq!(limits("memory.max"), format!("{}\n", 100 << 20));
    lab.output(&["update", "--memory", "1000g", "c"]).fails(1, &["memory"]);
    lab.output(&["update", "--l3-cache-schema", "x", "c"]).fails(1, &["RDT"]);
    lab.ok(&["delete", "-f", "c"]);
    lab.output(&["update", "--pids-limit", "1", "c"]).fails(1, &["does not exist"]);
}

#[test]
fn what_a_container_uses_and_its_processes_are_told() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    let told = json(&lab.ok(&["events", "--stats", "c"]));
    assert_eq!((&told["type"], &told["id"]), (&"stats".into(), &"c".into()));
    assert!(told["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{told}");
    assert!(told["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{told}");
    assert!(told["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{told}");

    let pids = json(&lab.ok(&["ps", "--format", "json", "c"]));
    assert!(!pids.as_array().unwrap().is_empty(), "{pids}");
    let table = lab.ok(&["ps", "c"]);
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert!(table.contains("while :; do sleep 1"), "{table}");

    // Events go on until the container ends.
    let mut events = lab.spawn(&["events", "--interval", "1s", "c"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert_eq!(json(&lines.next().unwrap().unwrap())["type"], "stats");
    lab.ok(&["kill", "c", "KILL"]);
    assert!(lines.all(|line| json(&line.unwrap())["id"] == "c"));
    assert!(events.wait().unwrap().success());
    lab.ok(&["delete", "c"]);
}

#[test]
fn a_kill_for_want_of_memory_is_an_event() {
    needs_sandboxes!();
    let script = "echo ready; read line; a=x; while :; do a=$a$a; done";
    let lab = Lab::shell(script);
    lab.change(|config| {
        config["linux"]["resources"]["memory"] = serde_json::json!({"limit": 32 << 20});
    });
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    let mut events = lab.spawn(&["events", "--interval", "1s", "c"]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    assert_eq!(json(&lines.next().unwrap().unwrap())["type"], "stats");
    created.stdin.take().unwrap().write_all(b"\n").unwrap();
    let oom = lines.map(|line| json(&line.unwrap())).find(|event| event["type"] == "oom");
    assert_eq!(oom.unwrap()["id"], "c");
    let _ = events.kill();
    events.wait().unwrap();
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn containers_are_listed() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    assert_eq!(lab.ok(&["list", "--format", "json"]).trim(), "null");
    let _one = lab.create("one", &[]);
    let _two = lab.start("two");
    assert_eq!(lab.ok(&["list", "-q"]), "one\ntwo\n");
    let listed = json(&lab.ok(&["list", "--format", "json"]));
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&"one".into(), &"created".into()));
    assert_eq!(listed[1]["pid"], lab.state("two")["pid"]);
    let table = lab.ok(&["list"]);
    assert!(table.starts_with("ID ") && table.contains("created") && table.contains("running"));
    for id in ["one", "two"] {
        lab.ok(&["delete", "-f", id]);
    }
}

#[test]
fn what_spec_writes_runs_and_features_are_the_specifications() {
    needs_sandboxes!();
    let lab = Lab::new(&["true"]);
    let config = lab.bundle().join("config.json");
    std::fs::remove_file(&config).unwrap();
    lab.ok(&["spec"]);
    lab.output(&["spec"]).fails(1, &["config.json"]);
    lab.change(|config| {
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["echo", "hello"]);
        let env = config["process"]["env"].as_array_mut().unwrap();
        env.push("PATH=/bin".into());
    });
    lab.output(&["run", "c"]).gives(0, "hello\n");
    let features = json(&lab.ok(&["features"]));
    assert!(features["ociVersionMin"].as_str().unwrap().starts_with("1."));
    let kinds = features["linux"]["namespaces"].as_array().unwrap();
    for kind in ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"] {
        assert!(kinds.contains(&kind.into()), "{kind}");
    }
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(features["mountOptions"].as_array().unwrap().contains(&"rro".into()));
    let version = lab.ok(&["--version"]);
    assert!(version.contains("ampoule-oci version") && version.contains("spec: 1.2"), "{version}");
}
