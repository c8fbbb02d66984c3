//! Wrong arguments: an error that names the thing, exit status 125, and no machine. None of them
//! needs KVM.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use crate::support::{BIN, Finished, guest, skip};

fn run(options: &str) -> Finished {
    let words = options.split_whitespace();
    let command = Command::new(BIN).args(["vm", "run"]).args(words).stdin(Stdio::null()).output();
    Finished::of(command.unwrap())
}

fn verb(verb: &str, options: &[&str]) -> Finished {
    let mut command = Command::new(BIN);
    Finished::of(command.args(["vm", verb]).args(options).stdin(Stdio::null()).output().unwrap())
}

#[test]
fn malformed_options_are_usage_errors() {
    for (options, words) in [
        ("", &["--kernel"][..]),
        ("--kernel k --vcpus 0", &["--vcpus", "'0'"]),
        ("--kernel k --vcpus 33", &["--vcpus", "'33'", "32"]),
        ("--kernel k --memory much", &["--memory", "'much'"]),
        ("--kernel k --memory 1", &["1 MiB of memory", "16"]),
        ("--kernel k --disk ,ro", &["--disk", "the path is empty"]),
        ("--kernel k --net mac=02:00:00:00:00:01", &["--net", "tap=NAME nor stream=PATH"]),
        ("--kernel k --net tap=a,mtu=3", &["--net", "\"mtu=3\""]),
        ("--kernel k --net tap=a/b", &["--net", "\"a/b\""]),
        ("--kernel k --net tap=a,mac=01:00:00:00:00:00", &["--net", "\"01:00:00:00:00:00\""]),
        ("--kernel k --disk ,ro --net x", &["--disk"]),
        ("--kernel k stray", &["stray"]),
    ] {
        let done = run(options);
        done.fails(125, words);
        assert_eq!(done.stdout, "", "{options}");
    }
}

#[test]
fn a_kernel_that_is_missing_or_none_is_named() {
    run("--kernel /no/such/kernel").fails(125, &["/no/such/kernel", "No such file"]);
    run("--kernel /etc/passwd").fails(125, &["/etc/passwd is not a kernel"]);
    run("--kernel /etc").fails(125, &["/etc"]);
}

#[test]
fn an_initial_ram_disk_that_is_missing_or_empty_is_named() {
    let kernel = guest().join("vmlinux");
    if !kernel.is_file() {
        return skip("needs the guest's vmlinux (tools/build-kernel)");
    }
    let with = |initrd: &str| run(&format!("--kernel {} --initrd {initrd}", kernel.display()));
    with("/no/such/initrd").fails(125, &["/no/such/initrd", "No such file"]);
    with("/dev/null").fails(125, &["/dev/null"]);
}

#[test]
fn a_disk_that_is_missing_or_none_is_named() {
    run("--kernel k --disk /no/such/disk").fails(125, &["/no/such/disk", "No such file"]);
    run("--kernel k --disk /etc,ro").fails(125, &["/etc", "neither a file nor a block device"]);
    run("--kernel k --disk /dev/null,ro").fails(125, &["/dev/null"]);
}

#[test]
fn a_socket_path_in_use_is_named_and_left() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("taken");
    fs::write(&path, "mine").unwrap();
    let done = run(&format!("--kernel k --vsock {}", path.display()));
    done.fails(125, &["taken", "is not a socket"]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_control_socket_in_use_is_named_and_left() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("taken");
    let options = format!("--kernel k --control {}", path.display());
    fs::write(&path, "mine").unwrap();
    run(&options).fails(125, &["control socket", "taken", "is not a socket"]);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    run(&options).fails(125, &["taken", "somebody listens on it already"]);
    assert!(path.exists());
}

#[test]
fn a_control_socket_goes_with_a_machine_that_cannot_be_made() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control");
    run(&format!("--kernel /no/such/kernel --control {}", path.display())).fails(125, &["kernel"]);
    assert!(!path.exists());
}

#[test]
fn what_is_no_control_socket_is_named_and_nothing_is_left() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let _other = UnixListener::bind(path("other")).unwrap();
    fs::write(path("file"), "").unwrap();
    for (socket, words) in [("none", "No such file"), ("other", "other"), ("file", "file")] {
        let (socket, folder) = (path(socket), path("snapshot"));
        let control = ["--control", &socket];
        verb("pause", &control).fails(125, &[&socket, words]);
        verb("resume", &control).fails(125, &[&socket, words]);
        let snapshot = ["--control", &socket, &folder];
        verb("snapshot", &snapshot).fails(125, &[&socket, words]);
    }
    let exists = ["--control", &path("none"), &path("file")];
    verb("snapshot", &exists).fails(125, &[&path("file"), "exists already"]);
    verb("snapshot", &["--control", "c", "/no/such/folder/s"]).fails(125, &["/no/such/folder"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_is_no_snapshot_is_named() {
    let folder = TempDir::new().unwrap();
    let name = folder.path().to_str().unwrap();
    verb("restore", &["/no/such/folder"]).fails(125, &["/no/such/folder is no snapshot"]);
    verb("restore", &[name]).fails(125, &[name, "is no snapshot", "state"]);
    let (state, memory) = (folder.path().join("state"), folder.path().join("memory"));
    fs::write(&state, "root:x:0:0").unwrap();
    verb("restore", &[name]).fails(125, &[name, "is no snapshot", "memory"]);
    fs::write(&memory, "").unwrap();
    verb("restore", &[name]).fails(125, &["no snapshot of ampoule"]);
    fs::write(&state, b"AMPOULES\x07\0\0\0").unwrap();
    verb("restore", &[name]).fails(125, &["format version 7"]);
    fs::remove_file(&state).unwrap();
    mkfifo(&state, Mode::S_IRWXU).unwrap();
    verb("restore", &[name]).fails(125, &["the snapshot's state"]);
}

#[test]
fn a_tap_that_is_not_there_is_named() {
    if !Path::new("/dev/net/tun").exists() {
        return skip("needs /dev/net/tun (the tun module)");
    }
    // Whoever may make interfaces would get a new one.
    let mut command = if geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", BIN]);
        command
    } else {
        Command::new(BIN)
    };
    let options = ["vm", "run", "--kernel", "k", "--net", "tap=nosuchtap"];
    let done = Finished::of(command.args(options).stdin(Stdio::null()).output().unwrap());
    done.fails(125, &["nosuchtap", "ip tuntap add"]);
}
