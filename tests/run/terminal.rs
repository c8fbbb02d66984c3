//! `-t`: a terminal for the program, its size, and the caller's terminal as it was.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};

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

/// A command on a terminal of its own, its errors apart; the terminal's other side.
fn typed_to(ampoule: &Ampoule, args: &[&str]) -> (Child, File) {
    let OpenptyResult { master, slave } = openpty(Some(&size(24, 80)), None).unwrap();
    let child = ampoule
        .command(args)
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, File::from(master))
}

#[test]
fn the_detach_keys_let_go_of_a_container_that_runs_on() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let read = "echo ready; while read x; do echo \"<$x>\"; [ \"$x\" = end ] && exit 7; done";
    let keys = ["--detach-keys", "ctrl-p,q"];
    let run = ["run", "--name", "box", "-it", keys[0], keys[1], "busybox", "sh", "-c", read];
    let (mut child, mut terminal) = typed_to(&ampoule, &run);
    read_until(&mut terminal, "ready\r\n");
    // Held back as the first of the keys, and passed on when it is not: then the terminal echoes it.
    terminal.write_all(b"a\x10b\n").unwrap();
    read_until(&mut terminal, "<a\x10b>\r\n");
    terminal.write_all(b"c\x10").unwrap();
    terminal.write_all(b"q").unwrap();
    assert_eq!(code(child.wait().unwrap()), 0);

    let (child, mut terminal) = typed_to(&ampoule, &["attach", "box"]);
    terminal.write_all(b"d\n").unwrap();
    // What was typed before it was let go of was passed on.
    read_until(&mut terminal, "<cd>\r\n");
    terminal.write_all(b"\x10\x11").unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(code(done.status), 1);
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "read escape sequence\n");

    let (child, mut terminal) = typed_to(&ampoule, &["attach", "box"]);
    terminal.write_all(b"end\n").unwrap();
    assert_eq!(code(child.wait_with_output().unwrap().status), 7);
    assert_eq!(ampoule.ok(&["inspect", "--format", "{{.State.ExitCode}}", "box"]), "7\n");

    // One that is started again ends with its command, and tells its exit code, as long as it is not let go of.
    let start = ["start", "-ai", keys[0], keys[1], "box"];
    let (child, mut terminal) = typed_to(&ampoule, &start);
    read_until(&mut terminal, "ready\r\n");
    terminal.write_all(b"end\n").unwrap();
    assert_eq!(code(child.wait_with_output().unwrap().status), 7);
}

#[test]
fn the_detach_keys_let_go_of_a_further_program_that_runs_on() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    // More than a terminal holds, with nobody to read it.
    let script = "echo ready; read x; seq 20000; touch /done; exec sleep 1000";
    let (child, mut terminal) = typed_to(&ampoule, &["exec", "-it", "box", "sh", "-c", script]);
    read_until(&mut terminal, "ready\r\n");
    terminal.write_all(b"\n\x10\x11").unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(code(done.status), 1);
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "read escape sequence\n");
    ampoule.ok(&["exec", "box", "sh", "-c", "until test -e /done; do sleep 0.1; done"]);
    ampoule.output(&["exec", "box", "sh", "-c", "exit 3"]).gives(3, "");
    let until = jiff::Timestamp::now().to_string();
    let events = ["events", "--since", "1h", "--until", &until, "--format"];
    let told = |format, filter| ampoule.ok(&[&events[..], &[format, "--filter", filter]].concat());
    let started = told("{{.Action}}", "event=exec_start");
    assert!(started.ends_with("exec_start: sh -c exit 3\n"), "{started}");
    let died =
        told("{{.Actor.Attributes.exitCode}} {{len .Actor.Attributes.execID}}", "event=exec_die");
    assert_eq!(died, "0 64\n3 64\n");
    assert_eq!(told("{{.Action}}", "event=exec_detach"), "exec_detach\n");
}
