//! The process's terminal, out of the container's own devpts.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::unistd::{Uid, dup2_stderr, dup2_stdin, dup2_stdout, fchown};
use oci_spec::runtime::Box as ConsoleSize;

use super::path_of;
use super::paths::Root;
use crate::error::{Doing, Error, Result};

nix::ioctl_write_ptr_bad!(set_locked, libc::TIOCSPTLCK, libc::c_int);
nix::ioctl_write_int_bad!(open_peer, libc::TIOCGPTPEER);
nix::ioctl_write_int_bad!(set_controlling, libc::TIOCSCTTY);
nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Pty {
    master: OwnedFd,
    slave: OwnedFd,
}

/// Makes a terminal in the container's devpts.
pub fn open(root: &Root, size: Option<ConsoleSize>) -> Result<Pty> {
    let action = || "open a terminal in the container's /dev/pts";
    // Not blocking, whatever a container that runs may have put there.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let master = root.open_in("/dev/pts/ptmx", flags).doing(action)?;
    check_is_ptmx(&master)?;
    nix::fcntl::fcntl(&master, FcntlArg::F_SETFL(OFlag::O_RDWR)).doing(action)?;
    let unlocked = 0;
    // SAFETY: TIOCSPTLCK reads one int behind the pointer, which is to a live one.
    unsafe { set_locked(master.as_raw_fd(), &raw const unlocked) }.doing(action)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a descriptor.
    let slave = unsafe { open_peer(master.as_raw_fd(), flags.bits()) }.doing(action)?;
    // SAFETY: the ioctl returned this descriptor just now and nothing else owns it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    if let Some(size) = size {
        let cells = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        let size = libc::winsize {
            ws_row: cells(size.height()),
            ws_col: cells(size.width()),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize behind the pointer, which is to a live one.
        unsafe { set_window_size(master.as_raw_fd(), &raw const size) }.doing(action)?;
    }
    Ok(Pty { master, slave })
}

fn check_is_ptmx(file: &OwnedFd) -> Result<()> {
    let found = fstat(file).doing(|| "look at /dev/pts/ptmx")?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let is_devpts = nix::sys::statfs::fstatfs(file)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::DEVPTS_SUPER_MAGIC);
    if kind == SFlag::S_IFCHR && found.st_rdev == makedev(5, 2) && is_devpts {
        return Ok(());
    }
    Err(Error::Invalid("the container's /dev/pts/ptmx is no terminal multiplexer".into()))
}

/// Makes the terminal the container's `/dev/console`.
pub fn bind_console(root: &Root, pty: &Pty) -> Result<()> {
    let console = root.make_file(Path::new("/dev/console"))?;
    mount(
        Some(path_of(&pty.slave).as_str()),
        path_of(&console).as_str(),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .doing(|| "bind the terminal to /dev/console")
}

/// Makes the terminal this process's own: controlling, and its stdio. The master is for the agent.
pub fn take_over(pty: Pty, uid: u32) -> Result<OwnedFd> {
    let action = || "take over the terminal";
    fchown(&pty.slave, Some(Uid::from_raw(uid)), None).doing(action)?;
    // SAFETY: TIOCSCTTY takes an integer.
    unsafe { set_controlling(pty.slave.as_raw_fd(), 0) }.doing(action)?;
    dup2_stdin(&pty.slave).doing(action)?;
    dup2_stdout(&pty.slave).doing(action)?;
    dup2_stderr(&pty.slave).doing(action)?;
    Ok(pty.master)
}
