//! Loads that are killed, meet each other or find no room.

use std::fs;
use std::io::Write;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::lab::{Lab, layer};
use crate::support::{BIN, Finished, signal, skip};

#[test]
fn what_a_killed_load_leaves_goes_with_the_next_one() {
    let lab = Lab::new();
    let big = lab.file("big-layer.tar", &layer(&[("big", &vec![7; 4 << 20])]));
    let archive = lab.pack("big.tar", &["--format", "docker", "--name", "big"], &[&big]);
    let bytes = fs::read(archive).unwrap();
    let mut load = lab.ampoule.spawn(&["load"]);
    let mut stdin = load.stdin.take().unwrap();
    // More than a pipe holds: once it is written, the load has begun to keep it.
    stdin.write_all(&bytes[..2 << 20]).unwrap();
    signal(&load, Signal::SIGKILL);
    load.wait().unwrap();
    assert_eq!(lab.staging(), 1, "a killed process cannot clean up");
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    assert_eq!(lab.staging(), 0);
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]).lines().count(), 1);
}

#[test]
fn loads_of_one_archive_at_once_both_succeed() {
    let lab = Lab::new();
    let archive = lab.small("box:1");
    let loads = [(); 4].map(|()| lab.ampoule.spawn(&["load", "-i", &archive]));
    for load in loads {
        Finished::of(load.wait_with_output().unwrap()).gives(0, "Loaded image: box:1\n");
    }
    assert_eq!(lab.ampoule.ok(&["image", "ls", "-q"]).lines().count(), 1);
    assert_eq!(lab.staging(), 0);
}

#[test]
fn a_load_that_fills_the_disk_names_the_store_and_leaves_nothing() {
    let mounts = Command::new("unshare").args(["-m", "true"]).output();
    if !mounts.is_ok_and(|output| output.status.success()) {
        return skip("needs a mount namespace of its own (root)");
    }
    let lab = Lab::new();
    // Larger than the room but for the reserve, and not to be seen from its compressed size.
    let layer = lab.file("layer.tar", &layer(&[("big", &vec![7; 48 << 20])]));
    let archive = lab.pack("big.tar", &["--name", "big", "--compress", "gzip"], &[&layer]);
    let script = "mkdir -p \"$1\" && mount -t tmpfs -o size=110m none \"$1\" || exit 99
        \"$2\" --root \"$1\" load -i \"$3\"; code=$?
        find \"$1\" -mindepth 1 -printf '%P\\n' | sort; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", &lab.text("store"), BIN, &archive]);
    let done = Finished::of(command.output().unwrap());
    done.fails(125, &["no room", &lab.text("store"), "ampoule image rm"]);
    assert_eq!(done.stdout, "blobs\nblobs/sha256\ndownloads\nimages\nlock\nstaging\n");
}
