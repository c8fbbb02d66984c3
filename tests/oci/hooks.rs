//! The caller's programs at points of a container's life.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::lab::{Lab, WAITS};
use crate::needs_sandboxes;
use crate::support::read_until;

/// A hook that writes its name and what it is told.
fn told(file: &Path, name: &str) -> Value {
    let script = format!("{{ echo {name}; cat; echo; }} >> {}", file.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

#[test]
fn hooks_of_the_host_run_in_order_with_the_state_on_standard_input() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    let file = lab.path("told");
    let read = || fs::read_to_string(&file).unwrap_or_default();
    lab.change(|config| {
        config["hooks"] = json!({
            "prestart": told(&file, "prestart"), "createRuntime": told(&file, "createRuntime"),
            "poststart": told(&file, "poststart"), "poststop": told(&file, "poststop"),
        });
    });
    let mut created = lab.create("c", &[]);
    let pid = lab.pid("c");
    let text = read();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines.len()), ("prestart", "createRuntime", 4), "{text}");
    let state: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!((&state["id"], &state["status"]), (&"c".into(), &"creating".into()));
    assert_eq!((&state["pid"], &state["bundle"]), (&pid.into(), &lab.text("bundle").into()));
    lab.ok(&["start", "c"]);
    read_until(&mut created.stdout, "ready\n");
    let text = read();
    assert!(
        text.lines().nth(4) == Some("poststart") && text.contains("\"status\":\"running\""),
        "{text}"
    );
    lab.ok(&["delete", "-f", "c"]);
    let text = read();
    assert!(
        text.lines().nth(6) == Some("poststop") && text.contains("\"status\":\"stopped\""),
        "{text}"
    );
}

#[test]
fn hooks_of_the_container_run_in_it() {
    needs_sandboxes!();
    let lab = Lab::shell("cat /told");
    let hook = |name: &str| {
        let script = format!("echo {name} $(cat /proc/sys/kernel/osrelease) >> /told");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}])
    };
    lab.change(|config| config["hooks"] = json!({"startContainer": hook("start")}));
    let done = lab.output(&["run", "c"]);
    assert_eq!(done.code, 0, "{done:?}");
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(done.stdout.starts_with("start ") && !done.stdout.contains(host.trim()), "{done:?}");
}

#[test]
fn a_hook_that_fails_is_told_and_there_is_no_container() {
    needs_sandboxes!();
    let lab = Lab::new(&["true"]);
    lab.change(|config| {
        let hook =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no network >&2; exit 2"]}]);
        config["hooks"] = json!({"createRuntime": hook});
        config["linux"]["cgroupsPath"] = "/ampoule-hook-test".into();
    });
    lab.output(&["create", "c"])
        .fails(1, &["createRuntime hook #0", "exit status 2", "no network"]);
    lab.output(&["state", "c"]).fails(1, &["does not exist"]);
    assert_eq!(lab.left(), [""; 0]);
    assert!(!Path::new("/sys/fs/cgroup/ampoule-hook-test").exists());
}

#[test]
fn hooks_find_the_containers_namespaces_by_its_pid() {
    needs_sandboxes!();
    let lab = Lab::new(&["true"]);
    let seen = lab.path("seen");
    // As what lays a network does it: joins the namespace of the process.
    let script = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); \
         [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || exit 1; \
         nsenter -t $pid -n cat /proc/net/dev > {}",
        seen.display()
    );
    lab.change(|config| {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
        config["hooks"] = json!({"createRuntime": hook});
    });
    lab.output(&["run", "c"]).gives(0, "");
    let devices = fs::read_to_string(seen).unwrap();
    assert!(devices.contains("lo:") && devices.lines().count() == 3, "{devices}");
}
