//! containerd dies and comes back: shims, and all that they keep, do not notice.

use std::fs;

use ampoule_cri::v1::{ContainerState, PodSandboxState};

use crate::lab;
use crate::lab::until;
use crate::pod::{Pod, WAITS};

/// Ends with this code as soon as there is a file, having made another.
fn ends_with(code: i32) -> String {
    format!(
        "echo ready; until [ -e /data/go ]; do sleep 0.1; done; echo x > /data/gone; exit {code}"
    )
}

#[test]
fn containerd_is_killed_and_finds_everything_again() {
    let lab = lab!(own);
    let host = lab.new_folder("go");
    let mount = format!("type=bind,src={},dst=/data,options=rbind:rw", host.display());
    let options = ["--detach", "--mount", &mount];
    for (id, script) in [("task-kept", WAITS), ("task-over", &ends_with(9))] {
        lab.ok(&lab.run_args(&options, id, &["sh", "-c", script]));
    }
    let pod_host = lab.new_folder("pod-go");
    let pod = Pod::run(&lab, "kept-pod");
    let kept = pod.start_waiting("kept");
    let mut config = Pod::shell("over", &ends_with(11));
    config.mounts = vec![ampoule_cri::mount(&pod_host, "/data", false)];
    let over = pod.start(&config);
    pod.says("over", "ready\n");
    // A machine whose container is alone ends with it; one that is ending has no words any more.
    let shims = || {
        let all = lab.processes().into_iter();
        all.filter(|(_, words)| words.contains("containerd-shim-")).count()
    };
    let before = shims();

    lab.kill_containerd();
    for host in [&host, &pod_host] {
        fs::write(host.join("go"), "").unwrap();
        until("a container has ended meanwhile", || host.join("gone").exists());
    }
    lab.start_containerd();

    // One that containerd asks what it is has no other to do.
    until("the shims are those that were there", || shims() == before);
    let exec = ["task", "exec", "--exec-id", "e", "task-kept", "sh", "-c", "echo in; exit 5"];
    lab.output(&exec).gives(5, "in\n");
    until("the end is known", || {
        let list = lab.ok(&["task", "ls"]);
        list.lines().any(|line| line.starts_with("task-over") && line.contains("STOPPED"))
    });
    let done = lab.output(&["task", "delete", "task-over"]);
    assert!(done.stderr.contains("exit code 9"), "{done:?}{}", lab.told());

    assert_eq!(lab.cri().pod_status(&pod.id).unwrap().state(), PodSandboxState::SandboxReady);
    let status = lab.cri().status(&kept).unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning, "{status:?}");
    assert_eq!(pod.end_of(&over).exit_code, 11);
    assert_eq!(pod.exec(&kept, "echo in; exit 6"), (6, "in\n".to_owned()));
    lab.cri().stop(&kept, 30).unwrap();
    let status = pod.end_of(&kept);
    assert_eq!(status.exit_code, 3, "{status:?}");
    pod.says("kept", "ended\n");
    let other = pod.start_waiting("other");
    assert_eq!(pod.exec(&other, "hostname").1, "kept-pod\n");
    pod.remove();

    lab.ok(&["task", "kill", "--signal", "SIGKILL", "task-kept"]);
    until("it has stopped", || lab.ok(&["task", "ls"]).contains("STOPPED"));
    lab.output(&["task", "delete", "task-kept"]);
    for id in ["task-kept", "task-over"] {
        lab.ok(&["container", "delete", id]);
        lab.nothing_left(id);
    }
    until("no process is left", || lab.processes().is_empty());
}
