//! Frames whose headers lie, and buffers that frames cannot be received into.

use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::guest::Guest;
use crate::needs_sandboxes;
use crate::support::{Finished, skip};

/// Runs an attack with a tap in a network namespace of its own.
fn with_a_tap(attack: &'static str) {
    if !geteuid().is_root() {
        return skip("needs root to make a network namespace");
    }
    // The namespace is this thread's, and that of all that it starts.
    let attack = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for words in [
            "tuntap add tap0 mode tap vnet_hdr",
            "address add 10.7.0.1/24 dev tap0",
            "link set tap0 up",
        ] {
            let done = Finished::of(Command::new("ip").args(words.split(' ')).output().unwrap());
            assert_eq!(done.code, 0, "{words}: {done:?}");
        }
        Guest::new(attack).option("--net", "tap=tap0,mac=02:00:00:00:00:05").survives();
    });
    if let Err(failure) = attack.join() {
        resume_unwind(failure);
    }
}

#[test]
fn headers_that_lie_are_dropped() {
    needs_sandboxes!();
    with_a_tap("net-headers");
}

#[test]
fn frames_find_buffers_that_are_none() {
    needs_sandboxes!();
    with_a_tap("net-receive");
}
