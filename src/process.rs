//! Another process of the host, by a handle that cannot come to mean another one.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A program of the search path, or of these folders besides.
pub fn program(name: &str, besides: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(besides.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// A handle on a process (a pidfd).
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// The process that has this pid now. Whoever got the pid from elsewhere must afterwards make
    /// sure, by other means, that it was still the one meant.
    pub fn of(pid: i32) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        let (fd, signal) = (self.fd.as_raw_fd(), signal as libc::c_int);
        // SAFETY: the descriptor is open, and a null siginfo asks the kernel to fill one in.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
        Ok(Errno::result(sent).map(drop)?)
    }

    /// Whether it ends within this time; no limit where none is given.
    pub fn ends_within(&self, time: Option<Duration>) -> io::Result<bool> {
        let timeout = time.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
        });
        loop {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                other => return Ok(other? > 0),
            }
        }
    }
}

impl AsFd for Process {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_signalled_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.ends_within(Some(Duration::ZERO)).unwrap());
        process.signal(Signal::SIGTERM).unwrap();
        assert!(process.ends_within(None).unwrap());
        child.wait().unwrap();
        assert!(process.signal(Signal::SIGTERM).is_err());
    }
}
