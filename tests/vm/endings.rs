//! How machines end: the guest's power-off, reset and panic, and signals.

use std::process::Child;

use nix::sys::signal::Signal;

use crate::machine::{Machine, script_said};
use crate::needs_sandboxes;
use crate::support::{code, read_until, signal};

#[test]
fn a_power_off_is_success() {
    needs_sandboxes!();
    let done = Machine::new("echo one\necho two >&2\npoweroff -f\n").output(&["--serial"]);
    assert_eq!((done.code, script_said(&done.stdout).as_str()), (0, "one\ntwo\n"), "{done:?}");
    assert_eq!(done.stderr, "");
}

#[test]
fn a_power_off_is_success_without_a_console_too() {
    needs_sandboxes!();
    let done = Machine::new("echo unheard\npoweroff -f\n").output(&[]);
    done.gives(0, "");
    assert_eq!(done.stderr, "");
}

#[test]
fn a_reset_is_success_and_the_guest_has_its_memory_and_cpus() {
    needs_sandboxes!();
    let script = "nproc\nsed -n 's/^MemTotal: *//p' /proc/meminfo\nreboot -f\n";
    let done = Machine::new(script).output(&["--serial", "--memory", "4096", "--vcpus", "2"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said = script_said(&done.stdout);
    let (cpus, memory) = said.trim().split_once('\n').unwrap();
    let kib: u64 = memory.strip_suffix(" kB").unwrap().parse().unwrap();
    assert_eq!(cpus, "2");
    assert!((3800 << 10..=4096 << 10).contains(&kib), "{kib} KiB");
}

/// The kernel panics when init leaves.
const PANIC: &str = "the guest's kernel panicked: Attempted to kill init! exitcode=0x00000700";

#[test]
fn a_panic_is_a_failure_with_the_kernels_words() {
    needs_sandboxes!();
    // The kernel speaks in the middle of the line.
    let machine = Machine::new("printf leaving\nexit 7\n");
    let shown = machine.output(&["--serial"]);
    shown.fails(125, &[PANIC]);
    assert!(shown.stdout.contains("leaving"), "{shown:?}");
    let silent = machine.output(&[]);
    silent.fails(125, &[PANIC]);
    assert_eq!(silent.stdout, "");
}

#[test]
fn a_signal_ends_the_machine_and_its_socket() {
    needs_sandboxes!();
    let machine = Machine::new("echo ready\nsleep 1000\n");
    let start = || -> Child {
        let mut child = machine.spawn(&["--serial", "--vsock", "vsock"]);
        read_until(child.stdout.as_mut().unwrap(), "ready\n");
        assert!(machine.path("vsock").exists());
        child
    };
    for (sent, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut child = start();
        signal(&child, sent);
        assert_eq!(code(child.wait().unwrap()), status);
        assert!(!machine.path("vsock").exists(), "{sent} left a socket");
    }
}
