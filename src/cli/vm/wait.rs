//! What `ampoule vm run` and `ampoule vm restore` have in common: a machine's life from its first
//! instruction on, with its terminal, signals and control socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::SockType;

use crate::cli::Failure;
use crate::clock::now_us;
use crate::monitor::process::raise_descriptor_limit;
use crate::monitor::server::Server;
use crate::socket_file::{SocketFile, SocketFileError};
use crate::terminal::RawTerminal;
use crate::vmm::config::SerialMode;
use crate::vmm::exit::Exit;
use crate::vmm::machine::{Machine, Running};

/// Why a machine has no keeper, or its guest's end is a failure.
#[derive(Debug, thiserror::Error)]
enum WaitError {
    #[error("cannot make the control socket")]
    Control(#[source] SocketFileError),
    #[error("the guest's kernel panicked: {0}")]
    Panicked(String),
}

/// Whoever looks after a machine: listens before there is one, and waits for its end.
pub struct Attendance {
    entered_us: u64,
    signals: SignalFd,
    /// A socket, and its file.
    control: Option<(OwnedFd, SocketFile)>,
}

impl Attendance {
    /// Listens for signals and at `control`. To be made before there are other threads, so that no
    /// thread but this sees the signals.
    pub fn new(control: Option<&Path>) -> Result<Self, Failure> {
        let entered_us = now_us();
        raise_descriptor_limit();
        let signals = block_signals()?;
        let listen = |path| SocketFile::listen(path, SockType::SeqPacket);
        let control = control.map(listen).transpose().map_err(WaitError::Control)?;
        Ok(Self { entered_us, signals, control })
    }

    /// Runs a machine, whose serial port is there, to its end; the exit status is that of
    /// `ampoule vm run`.
    pub fn run(mut self, machine: Machine, serial: SerialMode) -> Result<ExitCode, Failure> {
        // Dropped on every way out of here, before a failure is printed.
        let _terminal = if serial == SerialMode::Stdio { RawTerminal::enter()? } else { None };
        let running = machine.start()?;
        let signal = self.wait(&running)?;
        match running.finish()? {
            Exit::PowerOff | Exit::Reset => Ok(ExitCode::SUCCESS),
            Exit::Stopped => Ok(ExitCode::from(signal.map_or(0, status_of_signal))),
            Exit::GuestPanic { message } => Err(WaitError::Panicked(message).into()),
        }
    }

    /// Serves the control socket until the machine's end or a signal, which ends it; tells the
    /// signal's number.
    fn wait(&mut self, running: &Running) -> Result<Option<u32>, io::Error> {
        let (listener, _file) = self.control.take().unzip();
        let mut server = Server::new(running, listener, self.entered_us);
        // SAFETY: the descriptor lives as long as `running`.
        let ended = unsafe { BorrowedFd::borrow_raw(running.exit_event()) };
        loop {
            let watched = [ended, self.signals.as_fd()].into_iter().chain(server.descriptors());
            let mut fds: Vec<_> = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut happened = fds.iter().map(|fd| fd.any() == Some(true));
            if happened.next() == Some(true) {
                return Ok(None);
            }
            if happened.next() == Some(true) {
                // Before the server goes: a machine that it has paused is not to run once more.
                running.stop();
                return Ok(self.signals.read_signal()?.map(|info| info.ssi_signo));
            }
            server.process();
        }
    }
}

/// Has the signals that ask for an end wait in a descriptor. To be called before there are other
/// threads.
pub fn block_signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

/// As a shell tells it: 128 and the signal's number.
pub fn status_of_signal(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(0).saturating_add(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_told_as_a_shell_does() {
        assert_eq!(status_of_signal(15), 143);
    }
}
