//! The user's wish to end the benchmark before its time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What ends a benchmark.
const ENDS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// SIGHUP, SIGINT and SIGTERM as an event that lasts: the signal is looked at, not taken, so that
/// every thread sees it from then on.
#[derive(Debug)]
pub struct Interrupt {
    fd: SignalFd,
}

impl Interrupt {
    /// Blocks the signals. To be called before the process has a second thread, which inherits
    /// that; programs that are started get an empty mask.
    pub fn block() -> io::Result<Self> {
        let mask: SigSet = ENDS.into_iter().collect();
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { fd: SignalFd::with_flags(&mask, flags)? })
    }

    /// Whether one has come.
    pub fn is_raised(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Which one has come, taken.
    pub fn take(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

impl AsFd for Interrupt {
    /// Readable from the moment one has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
