//! `-t`: a terminal for the program, its size, and the caller's terminal as it was.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;
use nix::sys::termios::tcgetattr;

use crate::needs_sandboxes;
use crate::support::{Ampoule, code, read_until, signal};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[test]
fn a_terminal_has_the_callers_size_follows_it_and_is_typed_to() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let OpenptyResult { master, slave } = openpty(Some(&size(33, 99)), None).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let script = "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while read x; do echo \"<$x>\"; done";
    let mut child = ampoule
        .command(["run", "--rm", "-it", "busybox", "sh", "-c", script])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::from(slave.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    let said = read_until(&mut terminal, "ready\r\n");
    assert!(said.contains("/dev/pts/0\r\n33 99\r\n"), "{said}");
    terminal.write_all(b"hello\n").unwrap();
    read_until(&mut terminal, "<hello>\r\n");

    // SAFETY: the descriptor is an open terminal's and the size lives through the call.
    unsafe { set_size(terminal.as_raw_fd(), &size(40, 120)) }.unwrap();
    signal(&child, Signal::SIGWINCH);
    // A shell runs its trap between two commands.
    terminal.write_all(b"\n").unwrap();
    read_until(&mut terminal, "40 120\r\n");
    assert_eq!(code(child.wait().unwrap()), 5);
    assert_eq!(tcgetattr(&slave).unwrap(), before, "the caller's terminal was not restored");
}

#[test]
fn an_interrupt_is_typed_and_not_sent() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let OpenptyResult { master, slave } = openpty(Some(&size(24, 80)), None).unwrap();
    let mut child = ampoule
        .command([
            "run",
            "--rm",
            "-it",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 9' INT; echo ready; read x",
        ])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::from(slave))
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    read_until(&mut terminal, "ready\r\n");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(code(child.wait().unwrap()), 9);
}

#[test]
fn a_terminal_without_one_to_type_on_is_refused() {
    let done = Ampoule::new().output(&["run", "--rm", "-it", "busybox", "sh"]);
    done.fails(125, &["the input device is not a TTY"]);
}
