//! What `ampoule vm run` and `ampoule vm restore` have in common: a machine's life from its first
//! instruction on, with its terminal, signals and sockets. The machine itself is its monitor's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::SockType;

use crate::cli::Failure;
use crate::monitor::control::{Cause, Jailed, MonitorConfig, MonitorEvent, Start};
use crate::monitor::group::{Group, Size};
use crate::monitor::ports;
use crate::monitor::seccomp::violation;
use crate::monitor::spawn::{Monitor, Wanted};
use crate::socket_file::{SocketFile, SocketFileError};
use crate::terminal::RawTerminal;
use crate::vmm::config::SerialMode;
use crate::vmm::devices::virtio::vsock;

/// Why a machine has no keeper, or its guest's end is a failure.
#[derive(Debug, thiserror::Error)]
enum WaitError {
    #[error("cannot make the control socket")]
    Control(#[source] SocketFileError),
    #[error("cannot connect the guest with the host's ports")]
    Ports(#[source] io::Error),
    #[error("the guest's kernel panicked: {0}")]
    Panicked(String),
    /// In the words of the monitor.
    #[error("{0}")]
    Machine(String),
}

/// What a machine's monitor keeps of its caller's rights, for whoever looks for a fault.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Seal {
    /// Leave the monitor all rights of its caller: no user, namespaces and root of its own
    #[arg(long)]
    no_jail: bool,
    /// Let the monitor's threads make any system call
    #[arg(long)]
    no_seccomp: bool,
}

/// Whoever looks after a machine: listens before there is one, and waits for its end.
pub struct Attendance {
    signals: SignalFd,
    /// A socket, and its file.
    control: Option<(OwnedFd, SocketFile)>,
}

impl Attendance {
    /// Listens for signals and at `control`. To be made before there are other threads, so that no
    /// thread but this sees the signals.
    pub fn new(control: Option<&Path>) -> Result<Self, Failure> {
        let signals = block_signals()?;
        let listen = |path| SocketFile::listen(path, SockType::SeqPacket);
        let control = control.map(listen).transpose().map_err(WaitError::Control)?;
        Ok(Self { signals, control })
    }

    /// Runs a machine to its end, with these files of a snapshot, and the guest's ports behind `vsock`;
    /// the exit status is that of `ampoule vm run`.
    pub fn run(
        self,
        machine: Start,
        snapshot: &[BorrowedFd<'_>],
        vsock: Option<PathBuf>,
        serial: SerialMode,
        seal: Seal,
        size: Size,
    ) -> Result<ExitCode, Failure> {
        let console = serial == SerialMode::Stdio;
        let vsock = match vsock {
            Some(path) => {
                let (socket, file) = vsock::listen(&path)?;
                Some((socket, file, ports::serve(path, None).map_err(WaitError::Ports)?))
            }
            None => None,
        };
        let mut descriptors = Vec::new();
        if let Some((socket, _, ports)) = &vsock {
            descriptors.extend([socket.as_fd(), ports.as_fd()]);
        }
        descriptors.extend(self.control.iter().map(|(socket, _)| socket.as_fd()));
        descriptors.extend(snapshot);
        let config = MonitorConfig {
            machine,
            vsock: vsock.is_some(),
            ports: vsock.is_some(),
            control: self.control.is_some(),
            jail: (!seal.no_jail).then(Jailed::default),
            seccomp: !seal.no_seccomp,
        };
        // Dropped on every way out of here, before a failure is printed.
        let _terminal = if console { RawTerminal::enter()? } else { None };
        let id = format!("vm-{}", std::process::id());
        let group = if seal.no_jail { None } else { Group::make(&id, &size.into())? };
        let wanted = Wanted { id: &id, config, descriptors, console, group };
        let mut monitor = Monitor::spawn(wanted)?;
        match self.wait(&monitor)? {
            End::Signal(number) => {
                let (_, words) = monitor.end()?;
                if !words.is_empty() {
                    eprintln!("{words}");
                }
                Ok(ExitCode::from(status_of_signal(number)))
            }
            End::Told(Ok(())) => Ok(ExitCode::SUCCESS),
            End::Told(Err(error)) => Err(error.into()),
            End::Gone => {
                let (end, words) = monitor.end()?;
                Err(WaitError::Machine(format!("the machine's monitor ended ({end}) {words}"))
                    .into())
            }
        }
    }

    /// Waits for the machine's end, or a signal's number.
    fn wait(&self, monitor: &Monitor) -> Result<End, Failure> {
        loop {
            let watched = [monitor.as_fd(), self.signals.as_fd()];
            let mut fds = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            }
            if fds[0].any() == Some(true) {
                match monitor.event()? {
                    Some(event) => {
                        if let Some(end) = end(event) {
                            return Ok(End::Told(end));
                        }
                    }
                    None => return Ok(End::Gone),
                }
            } else if let Some(signal) = self.signals.read_signal().map_err(io::Error::from)? {
                return Ok(End::Signal(signal.ssi_signo));
            }
        }
    }
}

/// How a machine's attendance ends.
enum End {
    Signal(u32),
    /// The monitor has told.
    Told(Result<(), WaitError>),
    /// It has not, and is not there any more.
    Gone,
}

/// The end that an event tells of, if it does.
fn end(event: MonitorEvent) -> Option<Result<(), WaitError>> {
    match event {
        MonitorEvent::Ended { cause: Cause::Reset | Cause::Stopped, .. } => Some(Ok(())),
        MonitorEvent::Ended { cause: Cause::Panic { message }, .. } => {
            Some(Err(WaitError::Panicked(message)))
        }
        MonitorEvent::Ended { cause: Cause::Failed { message }, .. }
        | MonitorEvent::Failed { message, .. } => Some(Err(WaitError::Machine(message))),
        MonitorEvent::Violation { syscall, thread } => {
            Some(Err(WaitError::Machine(violation::describe(syscall, &thread))))
        }
        MonitorEvent::Timings { .. }
        | MonitorEvent::Metrics { .. }
        | MonitorEvent::Done
        | MonitorEvent::Refused { .. } => None,
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
