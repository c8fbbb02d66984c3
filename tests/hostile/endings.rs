//! Guests that end their machine, or seem to: one clear reason, at once.

use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;

use crate::guest::{Done, Guest};
use crate::needs_sandboxes;
use crate::support::{code, signal};

/// Runs an attack that ends its machine; tells how long that took, for whoever wants to know.
fn ends(attack: &str) -> Done {
    let done = Guest::new(attack).run();
    println!("{attack}: ended {:?} after what the guest did", done.ended_after.unwrap());
    done
}

#[test]
fn a_triple_fault_is_told_as_one() {
    needs_sandboxes!();
    let done = ends("triple-fault");
    assert_eq!(done.code, 125, "{done:?}");
    assert_eq!(done.stderr, "ampoule: the guest crashed: a triple fault on vCPU 0\n");
}

#[test]
fn a_guest_that_runs_where_nothing_is_ends() {
    needs_sandboxes!();
    let done = ends("execute-nothing");
    assert_eq!(done.code, 125, "{done:?}");
    let reasons = ["the guest crashed: a triple fault", "KVM failed on vCPU 0: internal error"];
    assert!(reasons.iter().any(|reason| done.stderr.contains(reason)), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
}

#[test]
fn a_guests_last_words_are_no_commands_to_a_terminal() {
    needs_sandboxes!();
    let done = ends("panic-lie");
    let words = "ampoule: the guest's kernel panicked: \\u{1b}]0;owned\\u{7}\\u{1b}[2J\n";
    assert_eq!((done.code, done.stderr.as_str()), (125, words));
}

#[test]
fn a_guest_that_says_that_it_is_off_is_off() {
    needs_sandboxes!();
    let done = ends("power-off-lie");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

/// A guest that halts for good, and one that never rests: both end when their host wants it.
#[test]
fn a_guest_that_does_not_end_is_ended() {
    needs_sandboxes!();
    for attack in ["halt", "storm-endless"] {
        let guest = Guest::new(attack);
        let mut child = guest.command().spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let said = BufReader::new(stdout).lines().next().unwrap().unwrap();
        assert_eq!(said, "now");
        signal(&child, Signal::SIGTERM);
        assert_eq!(code(child.wait().unwrap()), 143, "{attack}");
        assert!(!guest.path("vsock").exists(), "{attack}");
    }
}
