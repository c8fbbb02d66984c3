//! The serial console on standard input and output, and on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdout, Stdio};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::tcgetattr;

use crate::machine::Machine;
use crate::needs_sandboxes;
use crate::support::{code, read_until};

#[test]
fn every_byte_goes_through_both_ways() {
    needs_sandboxes!();
    let machine = Machine::new("stty raw -echo\necho ready\nhead -c 8192\npoweroff -f\n");
    let mut child = machine.spawn(&["--serial"]);
    let mut stdout = child.stdout.take().unwrap();
    read_until(&mut stdout, "ready\n");

    let typed: Vec<u8> = (0..=u8::MAX).cycle().take(8192).collect();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = thread::spawn({
        let typed = typed.clone();
        move || stdin.write_all(&typed)
    });
    let shown = read_while_it_comes(&mut stdout, typed.len());
    if shown.len() < typed.len() {
        child.kill().unwrap();
    }
    assert_eq!(shown.len(), typed.len(), "bytes came back, then no more");
    assert!(shown == typed, "what came back is not what was typed");
    feeder.join().unwrap().unwrap();
    assert_eq!(code(child.wait().unwrap()), 0);
}

/// Reads `len` bytes, or what has come when the stream ends or stands still for a minute.
fn read_while_it_comes(from: &mut ChildStdout, len: usize) -> Vec<u8> {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    while read.len() < len {
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(60_000u16)).unwrap() == 0 {
            break;
        }
        let wanted = part.len().min(len - read.len());
        match from.read(&mut part[..wanted]).unwrap() {
            0 => break,
            count => read.extend(&part[..count]),
        }
    }
    read
}

#[test]
fn a_terminal_is_raw_for_the_guest_and_then_as_it_was() {
    needs_sandboxes!();
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let machine = Machine::new("echo ready\nread -r line\necho \"<$line>\"\nsleep 1000\n");
    let mut child = machine
        .command(&["--serial"])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    read_until(&mut terminal, "ready\n");
    assert_ne!(tcgetattr(&slave).unwrap(), before, "the guest's terminal is not raw");
    // The key Enter sends a carriage return.
    terminal.write_all(b"typed\r").unwrap();
    read_until(&mut terminal, "<typed>\n");
    // The way out: Ctrl-A x.
    terminal.write_all(b"\x01x").unwrap();
    assert_eq!(code(child.wait().unwrap()), 0);
    assert_eq!(tcgetattr(&slave).unwrap(), before, "the caller's terminal was not restored");
}
