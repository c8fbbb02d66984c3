//! What a guest cannot honour is refused by its name, before anything is made.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::needs_sandboxes;

fn refused(lab: &Lab, words: &[&str]) {
    lab.output(&["create", "c"]).fails(1, words);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn namespaces_of_the_host_are_refused_by_name() {
    for (namespaces, words) in [
        (
            json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]),
            ["network", "another --network"],
        ),
        (
            json!([{"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]),
            ["pid", "of its own"],
        ),
        (
            json!([{"type": "network"}, {"type": "pid", "path": "/proc/1/ns/pid"}]),
            ["/proc/1/ns/pid", "cannot join"],
        ),
    ] {
        let lab = Lab::new(&["true"]);
        lab.change(|config| config["linux"]["namespaces"] = namespaces);
        refused(&lab, &words);
    }
}

#[test]
fn what_has_its_other_end_on_the_host_is_refused_by_name() {
    let lab = Lab::new(&["true"]);
    let socket = lab.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    lab.bind(&socket, "/run/docker.sock", &["rbind"]);
    refused(&lab, &["/run/docker.sock", "socket"]);

    let lab = Lab::new(&["true"]);
    nix::unistd::mkfifo(&lab.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    lab.bind(&lab.path("pipe"), "/pipe", &["bind"]);
    refused(&lab, &["/pipe", "named pipe"]);

    let lab = Lab::new(&["true"]);
    lab.bind(&lab.path("missing"), "/missing", &["bind"]);
    refused(&lab, &["missing", "No such file"]);
}

#[test]
fn descriptors_and_terminals_that_cannot_be_had_are_refused_by_name() {
    let lab = Lab::new(&["true"]);
    lab.output(&["create", "--preserve-fds", "2", "c"]).fails(1, &["--preserve-fds"]);
    lab.output(&["create", "--console-socket", "/tmp/x", "c"]).fails(1, &["console socket"]);
    lab.change(|config| config["process"]["terminal"] = true.into());
    refused(&lab, &["cannot allocate tty"]);
}

#[test]
fn a_configuration_that_makes_no_sense_is_told_with_the_field() {
    let wrong: [(&str, Value, &str); 6] = [
        ("/ociVersion", json!("2.0.0"), "2.0.0"),
        ("/process/args", json!("sh"), "process.args"),
        ("/root/path", json!("no-such"), "root.path"),
        ("/linux/resources", json!({"cpu": {"cpus": "3-1"}}), "linux.resources.cpu.cpus"),
        ("/annotations", json!({"io.ampoule.memory-mib": "much"}), "io.ampoule.memory-mib"),
        ("/annotations", json!({"io.ampoule.vcpus": "-2"}), "io.ampoule.vcpus"),
    ];
    for (pointer, value, word) in wrong {
        let lab = Lab::new(&["true"]);
        lab.change(|config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
        });
        refused(&lab, &[word]);
    }
    let lab = Lab::new(&["true"]);
    fs::write(lab.bundle().join("config.json"), "{").unwrap();
    refused(&lab, &["config.json", "EOF"]);
    File::create(lab.bundle().join("config.json")).unwrap().set_len(4 << 20).unwrap();
    refused(&lab, &["config.json", "larger than"]);
}

#[test]
fn what_only_the_guest_can_tell_is_refused_and_leaves_nothing() {
    needs_sandboxes!();
    for (pointer, value, word) in [
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "kernel.panic"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}),
            "seccomp",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]),
            "/dev/kvm",
        ),
    ] {
        let lab = Lab::new(&["true"]);
        lab.change(|config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
            config["linux"]["cgroupsPath"] = "/ampoule-refused-test".into();
        });
        refused(&lab, &[word]);
        assert!(!std::path::Path::new("/sys/fs/cgroup/ampoule-refused-test").exists());
    }
}
