//! `-d`, and the verbs that a detached container needs.

use crate::needs_sandboxes;
use crate::support::{Ampoule, read_until};

#[test]
fn a_detached_container_is_listed_entered_read_stopped_and_removed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script =
        "trap 'echo bye; exit 3' TERM; echo out; echo err >&2; export; while :; do sleep 0.1; done";
    let args = ["run", "-d", "--name", "web", "-e", "A=1", "busybox", "sh", "-c", script];
    let id = ampoule.ok(&args).trim().to_owned();
    assert_eq!(id.len(), 64);
    let listed = ampoule.ok(&["ps"]);
    assert!(
        listed.contains(&id[..12]) && listed.contains("Up ") && listed.contains("web"),
        "{listed}"
    );

    ampoule.output(&["exec", "web", "sh", "-c", "echo $A; exit 4"]).gives(4, "1\n");
    let piped = ampoule.with_input(&["exec", "-i", &id[..6], "cat"], b"through".to_vec());
    assert_eq!(piped.stdout, b"through");
    let processes =
        ampoule.ok(&["exec", "-w", "/tmp", "-u", "1000", "web", "sh", "-c", "pwd; id -u; ps"]);
    assert!(processes.starts_with("/tmp\n1000\n") && processes.contains("sleep"), "{processes}");
    ampoule.output(&["exec", "web", "no-such"]).fails(127, &["no-such"]);

    let mut follower = ampoule.spawn(&["logs", "-f", "web"]);
    read_until(follower.stdout.as_mut().unwrap(), "out\n");
    ampoule.output(&["rm", "web"]).fails(125, &["running"]);
    ampoule.output(&["stop", "web"]).gives(0, "web\n");
    let rest = follower.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&rest.stdout).ends_with("bye\n"));
    assert_eq!(String::from_utf8_lossy(&rest.stderr), "err\n");

    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (3)"));
    assert!(!ampoule.ok(&["ps"]).contains("web"));
    assert!(ampoule.ok(&["logs", "web"]).ends_with("bye\n"));
    ampoule.output(&["exec", "web", "true"]).fails(125, &["not running"]);
    ampoule.output(&["rm", "web"]).gives(0, "web\n");
    ampoule.output(&["logs", "web"]).fails(125, &["no such container"]);
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

#[test]
fn a_deaf_container_is_killed_when_its_time_is_over() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "trap '' TERM; while :; do sleep 1; done";
    ampoule.ok(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", script]);
    ampoule.output(&["stop", "-t", "1", "deaf"]).gives(0, "deaf\n");
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (137)"));
    ampoule.ok(&["rm", "deaf"]);
}

#[test]
fn with_rm_a_detached_container_leaves_nothing() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "-d", "--rm", "--name", "brief", "busybox", "sleep", "1000"]);
    ampoule.ok(&["stop", "-t", "0", "brief"]);
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

#[test]
fn a_failure_to_start_is_told_by_the_command_that_asked() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.output(&["run", "-d", "busybox", "no-such"]).fails(127, &["no-such"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
