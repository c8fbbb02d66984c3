//! Terminals: the master goes to the caller's socket, and everything typed and shown through it.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::tcgetattr;
use serde_json::json;

use crate::lab::{Lab, adopt_orphans, exit_code};
use crate::needs_sandboxes;
use crate::support::{code, read_until};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Takes one descriptor and what it is said to be, as conmon and the shims do.
pub fn receive(listener: UnixListener) -> JoinHandle<(File, String)> {
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut name = [0u8; 256];
        let mut parts = [IoSliceMut::new(&mut name)];
        let mut space = nix::cmsg_space!([i32; 1]);
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .unwrap();
        let length = message.bytes;
        let descriptor = message.cmsgs().unwrap().find_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
            _ => None,
        });
        // SAFETY: it has just been received, and nothing else knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor.unwrap()) };
        (descriptor.into(), String::from_utf8_lossy(&name[..length]).into_owned())
    })
}

#[test]
fn a_terminals_master_goes_to_the_callers_socket() {
    needs_sandboxes!();
    adopt_orphans();
    let script = "tty; stty size; trap 'stty size' WINCH; echo ready; while read x; do echo \"<$x>\"; done; exit 5";
    let lab = Lab::shell(script);
    lab.change(|config| {
        config["process"]["terminal"] = true.into();
        config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    });
    lab.output(&["create", "c"]).fails(1, &["cannot allocate tty", "console socket"]);
    let socket = lab.text("console");
    let received = receive(UnixListener::bind(&socket).unwrap());
    let created = lab.create("c", &["--console-socket", &socket]);
    let (mut terminal, name) = received.join().unwrap();
    assert!(name.starts_with("/dev/pts/"), "{name}");
    drop(created);
    let pid = lab.pid("c");
    lab.ok(&["start", "c"]);
    let first = read_until(&mut terminal, "ready\r\n");
    assert_eq!(first, "/dev/pts/0\r\n33 99\r\nready\r\n");
    terminal.write_all(b"typed\n").unwrap();
    assert_eq!(read_until(&mut terminal, "<typed>\r\n"), "typed\r\n<typed>\r\n");
    // As conmon resizes: on the master. The kernel tells the process that has the terminal.
    // SAFETY: the descriptor is a terminal's master and the argument what the request takes.
    unsafe { set_size(terminal.as_raw_fd(), &size(20, 50)) }.unwrap();
    read_until(&mut terminal, "20 50\r\n");
    terminal.write_all(b"\x04").unwrap();
    assert_eq!(exit_code(pid), 5);
    lab.ok(&["delete", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_terminal_carries_every_byte_of_a_raw_program() {
    needs_sandboxes!();
    let lab = Lab::shell("stty raw -echo; echo ready; head -c 256 | sha256sum");
    lab.change(|config| config["process"]["terminal"] = true.into());
    let socket = lab.text("console");
    let received = receive(UnixListener::bind(&socket).unwrap());
    let _created = lab.create("c", &["--console-socket", &socket]);
    let (mut terminal, _) = received.join().unwrap();
    lab.ok(&["start", "c"]);
    read_until(&mut terminal, "ready\n");
    let bytes: Vec<u8> = (0..=255).collect();
    terminal.write_all(&bytes).unwrap();
    // The hash of the bytes 0 to 255.
    read_until(&mut terminal, "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880");
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn run_lends_its_own_terminal_and_gives_it_back_as_it_was() {
    needs_sandboxes!();
    let lab =
        Lab::shell("tty; stty size; trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done");
    lab.change(|config| config["process"]["terminal"] = true.into());
    let OpenptyResult { master, slave } = openpty(Some(&size(24, 80)), None).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let mut run = lab
        .command(["run", "c"])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::from(slave.try_clone().unwrap()))
        .spawn()
        .unwrap();
    let mut terminal = File::from(master);
    assert_eq!(read_until(&mut terminal, "ready\r\n"), "/dev/pts/0\r\n24 80\r\nready\r\n");
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(code(run.wait().unwrap()), 9);
    assert_eq!(tcgetattr(&slave).unwrap(), before);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_descriptor_of_the_process_goes_to_the_callers_socket() {
    needs_sandboxes!();
    let lab = Lab::new(&["true"]);
    let socket = lab.text("pidfd");
    let received = receive(UnixListener::bind(&socket).unwrap());
    let _created = lab.create("c", &["--pidfd-socket", &socket]);
    let (pidfd, _) = received.join().unwrap();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    assert!(info.contains(&format!("Pid:\t{}\n", lab.pid("c"))), "{info}");
    lab.ok(&["delete", "c"]);
}

#[test]
fn a_further_process_has_a_terminal_of_its_own() {
    needs_sandboxes!();
    adopt_orphans();
    let lab = Lab::shell(crate::lab::WAITS);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    let process = json!({
        "terminal": true, "consoleSize": {"height": 10, "width": 20}, "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "stty size; read x; echo \"<$x>\"; exit 4"],
    });
    std::fs::write(lab.path("process"), process.to_string()).unwrap();
    let (socket, pid_file) = (lab.text("console"), lab.text("pid"));
    let received = receive(UnixListener::bind(&socket).unwrap());
    lab.ok(&[
        "exec",
        "--detach",
        "--pid-file",
        &pid_file,
        "--console-socket",
        &socket,
        "--process",
        &lab.text("process"),
        "c",
    ]);
    let (mut terminal, _) = received.join().unwrap();
    read_until(&mut terminal, "10 20\r\n");
    terminal.write_all(b"x\n").unwrap();
    read_until(&mut terminal, "<x>\r\n");
    let pid = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!(exit_code(pid), 4);
    // The end of the process is that of its terminal.
    assert_eq!(
        terminal.read(&mut [0u8; 16]).map_err(|e| e.raw_os_error()),
        Err(Some(nix::libc::EIO))
    );
    lab.ok(&["delete", "-f", "c"]);
}
