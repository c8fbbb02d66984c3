//! Something is killed that should not be: what it kept is cleared away.

use std::process::Command;

use ampoule_cri::v1::{ContainerState, PodSandboxState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;

use crate::lab::{Lab, Runtime, until};
use crate::pod::{Pod, WAITS};
use crate::{lab, needs_groups};

/// Whether a command line is that of a monitor.
fn is_monitor(words: &str) -> bool {
    words.split(' ').nth(1) == Some("monitor")
}

/// Kills those processes of this containerd whose command line is of one kind: how many.
fn kill_those(lab: &Lab, doomed: impl Fn(&str) -> bool) -> usize {
    let doomed = lab.processes().into_iter().filter(|(_, words)| doomed(words));
    doomed.filter(|(pid, _)| kill(ProcessId::from_raw(*pid), Signal::SIGKILL).is_ok()).count()
}

/// Waits until no process works for this containerd, and nothing is left of pods' networks and sandboxes.
#[track_caller]
fn all_gone(lab: &Lab) {
    until(&format!("all processes are gone: {:?}", lab.processes()), || lab.processes().is_empty());
    until(&format!("links are gone: {:?}", lab.links()), || lab.links().is_empty());
    assert_eq!(lab.machines(), Vec::<String>::new());
}

#[test]
fn a_shim_is_killed() {
    let lab = lab!(own);
    lab.ok(&lab.run_args(&["--detach"], "task-orphan", &["sh", "-c", WAITS]));
    let pod = Pod::run(&lab, "orphaned");
    let id = pod.start_waiting("main");
    let is_shim = |words: &str| words.contains("containerd-shim") && !is_monitor(words);
    assert!(kill_those(&lab, is_shim) >= 2, "{:?}", lab.processes());

    until("the task is gone", || !lab.ok(&["task", "ls"]).contains("RUNNING"));
    let _ = lab.output(&["task", "delete", "task-orphan"]);
    lab.ok(&["container", "delete", "task-orphan"]);
    lab.nothing_left("task-orphan");
    let status = pod.end_of(&id);
    assert_ne!(status.exit_code, 0, "{status:?}");
    until("the pod is known not to be ready", || {
        lab.cri().pod_status(&pod.id).unwrap().state() == PodSandboxState::SandboxNotready
    });
    pod.remove();
    all_gone(&lab);
    // And the next works.
    let pod = Pod::run(&lab, "orphaned");
    pod.start_waiting("main");
    pod.remove();
    all_gone(&lab);
}

#[test]
fn a_monitor_is_killed() {
    let lab = lab!(own);
    if lab.runtime == Runtime::Runc {
        return;
    }
    let pod = Pod::run(&lab, "halted");
    let id = pod.start_waiting("main");
    assert!(kill_those(&lab, is_monitor) >= 1, "{:?}", lab.processes());
    let status = pod.end_of(&id);
    assert_ne!(status.exit_code, 0, "{status:?}");
    until("the pod is known not to be ready", || {
        lab.cri().pod_status(&pod.id).unwrap().state() == PodSandboxState::SandboxNotready
    });
    pod.remove();
    all_gone(&lab);
}

/// The power fails: no process and nothing in /run is left, and disks are as they were.
#[test]
fn a_node_is_started_again() {
    needs_groups!();
    let lab = lab!(own);
    lab.ok(&lab.run_args(&["--detach"], "task-before", &["sh", "-c", WAITS]));
    let pod = Pod::run(&lab, "before-pod");
    let id = pod.start_waiting("main");
    let namespace = lab.network_of(&pod.id);
    lab.fail_power();
    if let Some(namespace) = namespace {
        let _ = Command::new("umount").args(["--lazy", &namespace]).status();
        let _ = std::fs::remove_file(namespace);
    }
    lab.start_containerd();

    until("the pod is known not to be ready", || {
        let status = lab.cri().pod_status(&pod.id);
        status.is_ok_and(|status| status.state() == PodSandboxState::SandboxNotready)
    });
    assert_eq!(lab.cri().status(&id).unwrap().state(), ContainerState::ContainerExited);
    let again = Pod::run(&lab, "after-pod");
    again.start_waiting("main");
    pod.remove();
    again.remove();
    assert!(!lab.ok(&["task", "ls"]).contains("task-before"));
    // The container is still there, and can have a new task.
    let output = lab.output(&["task", "start", "--detach", "task-before"]);
    assert_eq!(output.code, 0, "{output:?}{}", lab.told());
    lab.output(&["task", "exec", "--exec-id", "e", "task-before", "echo", "in"]).gives(0, "in\n");
    lab.ok(&["task", "kill", "--signal", "SIGKILL", "task-before"]);
    until("it has stopped", || lab.ok(&["task", "ls"]).contains("STOPPED"));
    let _ = lab.output(&["task", "delete", "task-before"]);
    lab.ok(&["container", "delete", "task-before"]);
    lab.nothing_left("task-before");
}
