//! What is told of pods: metrics, at the command and at the shim's own socket, and a trace of their start.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::lab;
use crate::lab::{Lab, Runtime, until};
use crate::pod::Pod;
use crate::support::{BIN, Finished, skip};

/// `ampoule metrics` of a sandbox.
fn metrics(lab: &Lab, sandbox: &str) -> String {
    let mut command = Command::new(BIN);
    command.args(["metrics", "--sandbox", sandbox]).env("AMPOULE_STATE", lab.path("ampoule"));
    let done = Finished::of(command.output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    done.stdout
}

/// What a shim's socket answers.
fn answer(lab: &Lab, sandbox: &str) -> String {
    let folders = fs::read_dir(lab.path("ampoule/sandboxes")).unwrap();
    let mut folders = folders.map(|folder| folder.unwrap().path());
    let is_its = |about: String| about.contains(sandbox);
    let folder =
        folders.find(|folder| fs::read_to_string(folder.join("about.json")).is_ok_and(is_its));
    let mut socket = UnixStream::connect(folder.unwrap().join("metrics.sock")).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

/// A metric's value, by its name and a part of its labels.
#[track_caller]
fn value(text: &str, name: &str, labels: &str) -> f64 {
    let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(labels);
    let line = text.lines().find(is_it).unwrap_or_else(|| panic!("no {name} {labels}: {text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn metrics_of_a_pod() {
    let lab = lab!();
    if lab.runtime != Runtime::Ampoule {
        return skip("what ampoule tells");
    }
    let pod = Pod::run(&lab, "told");
    let container = pod.start_waiting("web");
    pod.ask(&container, "cat /bin/busybox > /file; cat /file > /dev/null");
    let text = metrics(&lab, &pod.id);
    let its = format!("sandbox=\"{}\",namespace=\"default\",pod=\"told\"", pod.id);
    assert_eq!(value(&text, "ampoule_sandbox_up", &its), 1.0);
    for part in ["monitor", "agent"] {
        assert_eq!(value(&text, "ampoule_sandbox_answered", part), 1.0, "{part}: {text}");
    }
    let memory = |part: &str| {
        let labels = format!("part=\"{part}\",kind=\"pss\"");
        value(&text, "ampoule_sandbox_memory_bytes", &labels)
    };
    let parts = ["guest", "monitor", "keeper"].map(memory);
    assert!(parts.iter().all(|part| *part > 100_000.0), "{parts:?}");
    // For docs/kubernetes.md.
    println!(
        "an idle pod, PSS of guest, monitor, keeper in MiB: {:.1?}",
        parts.map(|n| n / 1048576.0)
    );
    assert!(value(&text, "ampoule_fs_requests_total", "device=\"0\"") > 0.0);
    assert!(value(&text, "ampoule_net_tx_frames_total", "device=\"0\"") >= 0.0);
    let id = format!("container=\"web\",id=\"{container}\"");
    assert!(value(&text, "ampoule_container_cpu_usage_seconds_total", &id) > 0.0);
    assert!(value(&text, "ampoule_container_memory_usage_bytes", &id) > 0.0);
    assert!(value(&text, "ampoule_container_pids", &id) >= 1.0);
    assert!(value(&text, "ampoule_sandbox_start_seconds", "network joined") > 0.0);

    let answer = answer(&lab, &pod.id);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(value(&answer, "ampoule_sandbox_up", &its), 1.0);
    assert!(value(&answer, "ampoule_container_pids", &id) >= 1.0);

    let (sandbox, trace) = (pod.id.clone(), lab.path("trace.json"));
    pod.remove();
    let text = metrics(&lab, &sandbox);
    assert!(!text.contains(&sandbox), "{text}");

    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.starts_with("[\n"), "{trace}");
    for (name, of) in [
        ("start", &sandbox),
        ("shim started", &sandbox),
        ("network joined", &sandbox),
        ("container created", &container),
        ("started", &container),
    ] {
        let name = format!("\"name\":\"{name}\"");
        let told = trace.lines().any(|line| line.contains(&name) && line.contains(of.as_str()));
        assert!(told, "{name} {of}: {trace}");
    }
}

#[test]
fn metrics_of_a_pod_whose_container_has_ended() {
    let lab = lab!();
    if lab.runtime != Runtime::Ampoule {
        return skip("what ampoule tells");
    }
    let pod = Pod::run(&lab, "told-ended");
    let id = pod.start(&Pod::shell("short", "exit 3"));
    pod.end_of(&id);
    lab.cri().remove(&id).unwrap();
    until("it is told of no more", || !metrics(&lab, &pod.id).contains(&id));
    let text = metrics(&lab, &pod.id);
    assert_eq!(value(&text, "ampoule_sandbox_answered", "monitor"), 1.0);
    pod.remove();
}
