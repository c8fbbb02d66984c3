//! Machines that are written down and go on: once more, elsewhere, with other things plugged in.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::machine::{Machine, hash, random_file, tool};
use crate::needs_sandboxes;
use crate::support::{Finished, code, read_until, signal, skip};

/// Does what it is told, and counts how often it was told something else.
const SCRIPT: &str = "\
ip address add 10.7.0.2/24 dev eth0 2> /dev/null && ip link set eth0 up
echo kept > /tmp/kept
count=0
echo ready
while read -r line; do
    case $line in
        file) cat /tmp/kept ;;
        nap) sleep 1; echo rested ;;
        hash) sha256sum < /dev/vda ;;
        write) echo written | dd of=/dev/vda conv=fsync,notrunc 2> /dev/null; echo done ;;
        mac) cat /sys/class/net/eth0/address ;;
        ping) ping -c 3 -A -q 10.7.0.1 | grep -o '3 packets received' ;;
        off) poweroff -f ;;
        *) count=$((count + 1)); echo \"$line $count\" ;;
    esac
done
";

/// A machine that runs, and its serial port.
struct Guest {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Guest {
    fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// A machine that has booted.
    fn boot(machine: &Machine, options: &[&str]) -> Self {
        let mut guest = Self::of(&mut machine.command(&[&["--serial"], options].concat()));
        read_until(&mut guest.stdout, "ready\n");
        guest
    }

    fn restore(machine: &Machine, options: &[&str]) -> Self {
        Self::of(&mut machine.verb("restore", &[&["--serial"], options].concat()))
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// What it answers.
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        read_until(&mut self.stdout, "\n").trim_end().to_owned()
    }

    /// Whether it says something within a second.
    fn speaks(&self) -> bool {
        let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(1000u16)).unwrap() > 0
    }

    fn switch_off(mut self) {
        self.tell("off");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(code(self.child.wait().unwrap()), 0, "{rest}");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verb(machine: &Machine, verb: &str, options: &[&str]) -> Finished {
    Finished::of(machine.verb(verb, options).output().unwrap())
}

#[track_caller]
fn snapshot(machine: &Machine, folder: &str) {
    verb(machine, "snapshot", &["--control", "control", folder]).gives(0, "");
}

#[test]
fn a_guest_goes_on_from_its_snapshot_any_number_of_times() {
    needs_sandboxes!();
    let machine = Machine::new(SCRIPT);
    let mut source = Guest::boot(&machine, &["--control", "control", "--vcpus", "2"]);
    assert_eq!(source.ask("first"), "first 1");
    snapshot(&machine, "snapshot");
    assert_eq!(source.ask("source"), "source 2");
    // Killed, it leaves its socket, which the next machine replaces.
    drop(source);
    assert!(machine.path("control").exists());

    let mut first = Guest::restore(&machine, &["snapshot", "--control", "control"]);
    let mut second = Guest::restore(&machine, &["snapshot", "--control", "control2"]);
    for guest in [&mut first, &mut second] {
        assert_eq!(guest.ask("again"), "again 2");
        assert_eq!(guest.ask("file"), "kept");
        assert_eq!(guest.ask("nap"), "rested");
    }
    // What was restored can be written down too.
    assert_eq!(first.ask("more"), "more 3");
    snapshot(&machine, "later");
    first.switch_off();
    assert!(!machine.path("control").exists());
    signal(&second.child, Signal::SIGTERM);
    assert_eq!(code(second.child.wait().unwrap()), 143);
    assert!(!machine.path("control2").exists());

    let mut third = Guest::restore(&machine, &["later"]);
    assert_eq!(third.ask("at last"), "at last 4");
    third.switch_off();
}

#[test]
fn disks_go_on_and_what_does_not_fit_or_is_damaged_is_refused() {
    needs_sandboxes!();
    let machine = Machine::new(SCRIPT);
    let held = random_file(&machine.path("disk"), 1 << 20);
    let mut source = Guest::boot(&machine, &["--control", "control", "--disk", "disk"]);
    verb(&machine, "pause", &["--control", "control"]).gives(0, "");
    snapshot(&machine, "snapshot");
    fs::copy(machine.path("disk"), machine.path("copy")).unwrap();
    verb(&machine, "resume", &["--control", "control"]).gives(0, "");
    assert_eq!(source.ask("write"), "done");
    source.switch_off();

    let refused = |options: &[&str], words: &[&str]| {
        let done = verb(&machine, "restore", &[&["--serial"], options].concat());
        done.fails(125, words);
        assert_eq!(done.stdout, "", "the guest has run");
    };
    refused(&["snapshot"], &["1 disks", "0 were given", "--disk"]);
    refused(&["snapshot", "--disk", "copy", "--disk", "copy"], &["1 disks", "2 were given"]);
    refused(&["snapshot", "--disk", "copy", "--net", "tap=t"], &["0 network devices", "--net"]);
    refused(&["snapshot", "--disk", "copy", "--vsock", "v"], &["no vsock device"]);
    refused(&["snapshot", "--disk", "copy,ro"], &["read-only disk"]);
    random_file(&machine.path("small"), 512);
    refused(&["snapshot", "--disk", "small"], &["1 sectors", "2048"]);

    let mut restored = Guest::restore(&machine, &["snapshot", "--disk", "copy"]);
    assert_eq!(restored.ask("hash"), format!("{}  -", hash(&held)));
    assert_eq!(restored.ask("write"), "done");
    restored.switch_off();
    assert!(fs::read(machine.path("copy")).unwrap().starts_with(b"written\n"));

    damage(&machine.path("snapshot"), &refused);
}

/// Alters a snapshot, each time back from the last damage, and looks that it is refused.
fn damage(folder: &Path, refused: &impl Fn(&[&str], &[&str])) {
    let options = ["snapshot", "--disk", "copy"];
    let (state, memory) = (folder.join("state"), folder.join("memory"));
    let good = fs::read(&state).unwrap();
    fs::write(&state, &good[..good.len() / 2]).unwrap();
    refused(&options, &["the snapshot's state", "truncated"]);
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    fs::write(&state, altered).unwrap();
    refused(&options, &["the snapshot's state", "damaged"]);
    fs::write(&state, good).unwrap();

    // The kernel's first page.
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().read(true).write(true).open(&memory).unwrap();
    let mut byte = [0];
    let at = 17 << 20;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    refused(&options, &["the snapshot's memory", "damaged"]);
    file.write_all_at(&byte, at).unwrap();
    file.set_len(64 << 20).unwrap();
    refused(&options, &["the snapshot's memory", "bytes"]);
    fs::remove_file(&memory).unwrap();
    refused(&options, &["snapshot is no snapshot", "memory"]);
}

#[test]
fn a_machine_is_paused_asked_by_many_and_goes_on_where_a_snapshot_has_no_space() {
    needs_sandboxes!();
    if !geteuid().is_root() {
        return skip("needs root to mount a small file system");
    }
    // The mount is this thread's, and that of all that it starts.
    if let Err(failure) = thread::spawn(control).join() {
        resume_unwind(failure);
    }
}

fn control() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    let machine = Machine::new(SCRIPT);
    let mut guest = Guest::boot(&machine, &["--control", "control"]);

    verb(&machine, "pause", &["--control", "control"]).gives(0, "");
    guest.tell("paused");
    assert!(!guest.speaks(), "a paused guest speaks");
    verb(&machine, "resume", &["--control", "control"]).gives(0, "");
    assert_eq!(read_until(&mut guest.stdout, "\n"), "paused 1\n");

    let names = ["one", "other", "third"];
    let clients: Vec<Child> = names
        .iter()
        .map(|name| machine.verb("snapshot", &["--control", "control", name]).spawn().unwrap())
        .collect();
    for mut client in clients {
        assert_eq!(code(client.wait().unwrap()), 0);
    }
    assert!(names.iter().all(|name| machine.path(name).join("memory").exists()));
    assert_eq!(guest.ask("between"), "between 2");
    verb(&machine, "snapshot", &["--control", "control", "one"]).fails(125, &["exists already"]);

    let small = machine.path("small");
    fs::create_dir(&small).unwrap();
    mount(Some("none"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).unwrap();
    let full = verb(&machine, "snapshot", &["--control", "control", "small/snapshot"]);
    full.fails(125, &["goes on", "No space left"]);
    assert_eq!(fs::read_dir(&small).unwrap().count(), 0, "something is left");
    assert_eq!(guest.ask("after"), "after 3");

    // Paused, it ends without another word.
    verb(&machine, "pause", &["--control", "control"]).gives(0, "");
    guest.tell("unheard");
    signal(&guest.child, Signal::SIGTERM);
    assert_eq!(code(guest.child.wait().unwrap()), 143);
    let mut rest = String::new();
    guest.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    verb(&machine, "pause", &["--control", "control"]).fails(125, &["no machine listens"]);
}

const MAC: &str = "02:00:00:00:00:05";

#[test]
fn a_restored_guest_has_its_network_on_another_tap() {
    needs_sandboxes!();
    if !geteuid().is_root() {
        return skip("needs root to make a network namespace");
    }
    // The namespace is this thread's, and that of all that it starts.
    if let Err(failure) = thread::spawn(network).join() {
        resume_unwind(failure);
    }
}

fn network() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let ip = |words: &str| tool(Command::new("ip").args(words.split(' ')));
    for tap in ["tap0", "tap1"] {
        ip(&format!("tuntap add {tap} mode tap vnet_hdr"));
    }
    let machine = Machine::new(SCRIPT);
    let net = format!("tap=tap0,mac={MAC}");
    let source = Guest::boot(&machine, &["--control", "control", "--net", &net]);
    snapshot(&machine, "snapshot");
    drop(source);

    ip("address add 10.7.0.1/24 dev tap1");
    ip("link set tap1 up");
    let other = "tap=tap1,mac=02:00:00:00:00:06";
    verb(&machine, "restore", &["snapshot", "--net", other]).fails(125, &[MAC, "device 0"]);
    let mut restored = Guest::restore(&machine, &["snapshot", "--net", "tap=tap1"]);
    assert_eq!(restored.ask("mac"), MAC);
    assert_eq!(restored.ask("ping"), "3 packets received");
    restored.switch_off();
}
