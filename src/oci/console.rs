//! A container's terminal, as its caller sees it: the master goes to the caller's socket, the slave
//! is the keeper's own, whose bytes travel to the terminal in the guest and back.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, ttyname};
use oci_spec::runtime::{BoxBuilder, Process};

use crate::terminal;

nix::ioctl_write_int_bad!(set_controlling, libc::TIOCSCTTY);

/// Makes a terminal this process's own, and sends its master to whoever listens at `socket`. The
/// process must be the leader of a session.
pub fn take(socket: &Path, size: Option<(u16, u16)>) -> io::Result<()> {
    let (ws_row, ws_col) = size.unwrap_or_default();
    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&size, None)?;
    // What a terminal does to bytes, the guest's does.
    let mut raw = tcgetattr(&slave)?;
    cfmakeraw(&mut raw);
    tcsetattr(&slave, SetArg::TCSANOW, &raw)?;
    // SAFETY: TIOCSCTTY takes an integer.
    unsafe { set_controlling(slave.as_raw_fd(), 0) }?;
    send(socket, &master, ttyname(&slave)?.as_os_str().as_bytes())?;
    dup2_stdin(&slave)?;
    dup2_stdout(&slave)?;
    dup2_stderr(&slave)?;
    Ok(())
}

/// Lets go of the standard streams that threads carry copies of: their other ends are to see when the
/// container closes them, not when this process ends.
pub fn let_go() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Gives a process that is to have a terminal of no particular size that of standard input, if it is
/// one.
pub fn size_as_own(process: &mut Process) {
    let sizeless = process.terminal().unwrap_or(false) && process.console_size().is_none();
    let own = terminal::size().filter(|(rows, columns)| sizeless && *rows > 0 && *columns > 0);
    let Some((rows, columns)) = own else { return };
    let size = BoxBuilder::default().height(rows).width(columns).build();
    process.set_console_size(size.ok());
}

/// Sends one message to whoever listens at `socket`: a descriptor, and what it is.
pub fn send(socket: &Path, descriptor: &impl AsFd, name: &[u8]) -> io::Result<()> {
    let socket = UnixStream::connect(socket)?;
    let parts = [IoSlice::new(name)];
    let descriptors = [descriptor.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
