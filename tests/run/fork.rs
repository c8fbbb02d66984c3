//! Forks: a running container goes on in clones of it.

use crate::needs_sandboxes;
use crate::support::Ampoule;

/// Counts in memory, a line for each word that comes by a pipe. It is open for both, so that no writer's
/// end is the pipe's.
const COUNTER: &str = "n=0; mkfifo /ask; exec 3<> /ask; echo ready; while read word <&3; do \
                       n=$((n+1)); echo $word $n; done";

#[test]
fn clones_go_on_from_where_the_container_was_apart_from_it_and_each_other() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "-d", "--name", "base", "busybox", "sh", "-c", COUNTER]);
    let until = |name: &str, word: &str| {
        let mut log = String::new();
        while !log.contains(word) {
            log = ampoule.ok(&["logs", name]);
        }
        log
    };
    until("base", "ready");
    let ask = |name: &str, word: &str| {
        // The log gets the line by way of the keeper: wait for it as a user would.
        ampoule.ok(&["exec", name, "sh", "-c", &format!("echo {word} > /ask")]);
        until(name, word)
    };
    assert_eq!(ask("base", "one"), "ready\none 1\n");
    let made = ampoule.ok(&["fork", "base", "left", "right"]);
    assert_eq!(made.lines().count(), 2);
    // What was counted before the fork is in all three; what comes after is each one's own.
    assert_eq!(ask("left", "two"), "two 2\n");
    assert_eq!(ask("left", "three"), "two 2\nthree 3\n");
    assert_eq!(ask("right", "two"), "two 2\n");
    assert_eq!(ask("base", "two"), "ready\none 1\ntwo 2\n");

    let identity = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; hostname";
    let of = |name: &str| {
        let told = ampoule.output(&["exec", name, "sh", "-c", identity]);
        assert_eq!(told.code, 0, "{told:?}; {}", ampoule.states());
        told.stdout
    };
    let all = ["base", "left", "right"].map(of);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let differ = |(one, other): (&str, &str)| assert_ne!(one, other);
        all[one].lines().zip(all[other].lines()).for_each(differ);
    }
    for name in ["left", "right", "base"] {
        ampoule.ok(&["rm", "-f", name]);
    }
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

#[test]
fn what_cannot_be_forked_is_told() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.output(&["fork", "nobody"]).fails(125, &["no such container: nobody"]);
    ampoule.ok(&["run", "--name", "ended", "busybox", "true"]);
    ampoule.output(&["fork", "ended"]).fails(125, &["ended is not running"]);
    ampoule.ok(&["run", "-d", "--name", "base", "busybox", "sleep", "1000"]);
    ampoule.output(&["fork", "base", "ended"]).fails(125, &["is in use"]);
    ampoule.ok(&["rm", "-f", "base", "ended"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
