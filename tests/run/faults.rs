//! SIGKILL of any one process, and a following run.

use std::process::Child;

use ampoule::process::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::needs_sandboxes;
use crate::support::{Ampoule, code, read_until, signal};

/// A container that runs until something ends it.
fn running(ampoule: &Ampoule) -> Child {
    let script = "echo ready; while :; do sleep 1; done";
    let mut child =
        ampoule.spawn(&["run", "--rm", "--name", "victim", "busybox", "sh", "-c", script]);
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    child
}

/// The container's monitor: the other process beside the command.
fn monitor(ampoule: &Ampoule, command: &Child) -> Pid {
    let command = i32::try_from(command.id()).unwrap();
    let others: Vec<i32> = ampoule.processes().into_iter().filter(|pid| *pid != command).collect();
    assert_eq!(others.len(), 1, "one monitor per sandbox");
    Pid::from_raw(others[0])
}

#[test]
fn a_killed_monitor_is_told_and_leaves_nothing() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let child = running(&ampoule);
    kill(monitor(&ampoule, &child), Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code(output.status), 125, "{told}");
    assert!(told.contains("the sandbox died") && told.contains("signal: 9"), "{told}");
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

#[test]
fn what_a_killed_keeper_leaves_is_cleared_by_the_next_run() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let mut child = running(&ampoule);
    let monitor = monitor(&ampoule, &child);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    wait_for_end(monitor);
    assert_ne!(ampoule.left(), [""; 0], "a killed keeper clears nothing away itself");
    // The same name is free again, at once.
    let done = ampoule.output(&["run", "--rm", "--name", "victim", "busybox", "echo", "next"]);
    done.gives(0, "next\n");
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

#[test]
fn a_killed_detached_keeper_is_seen_in_the_list() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "-d", "--name", "kept", "busybox", "sleep", "1000"]);
    let processes = ampoule.processes();
    assert_eq!(processes.len(), 2, "a keeper and a monitor");
    for pid in processes {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.starts_with(b"ampoule\0keeper") {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            wait_for_end(Pid::from_raw(pid));
        }
    }
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (137)"));
    ampoule.ok(&["rm", "kept"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn an_interrupt_while_the_guest_boots_clears_everything() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let mut child = ampoule.spawn(&["run", "--rm", "busybox", "sleep", "1000"]);
    // The folder is made before the guest boots.
    while ampoule.left().is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    signal(&child, Signal::SIGINT);
    assert!([130, 137].contains(&code(child.wait().unwrap())));
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
}

/// Waits for the end of a process that is not this one's child.
fn wait_for_end(pid: Pid) {
    // One that is gone already has no handle.
    if let Ok(process) = Process::of(pid.as_raw()) {
        assert!(process.ends_within(None).unwrap());
    }
}
