//! The client's side of a machine's control socket: one question, one answer.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use crate::monitor::channel::{Channel, ChannelError};
use crate::monitor::control::{MonitorEvent, MonitorRequest};

/// A machine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// nobody is there
    #[error("no machine listens at {}", path.display())]
    Unreachable {
        /// the socket
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// a file, or a socket of something else
    #[error("{} is not the control socket of a machine (`ampoule vm run --control`)", path.display())]
    NotControl {
        /// the path
        path: PathBuf,
    },
    /// the connection broke
    #[error("the machine at {} cannot be asked", path.display())]
    Channel {
        /// the socket
        path: PathBuf,
        /// why
        #[source]
        source: ChannelError,
    },
    /// the host's kernel
    #[error("cannot wait for the machine's answer")]
    Wait(#[source] io::Error),
    /// it ended first
    #[error("the machine at {} ended before it answered", path.display())]
    Gone {
        /// the socket
        path: PathBuf,
    },
    /// it said no
    #[error("the machine goes on as it was: {0}")]
    Refused(String),
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// This signal came first.
    Signal(u32),
}

/// Asks the machine at `path`, with the descriptors that belong to the request, and waits for the
/// answer or one of `signals`.
pub fn ask(
    path: &Path,
    request: MonitorRequest,
    descriptors: &[BorrowedFd<'_>],
    signals: &SignalFd,
) -> Result<Answer, ControlError> {
    let channel = connect(path)?;
    let failed = |source| ControlError::Channel { path: path.into(), source };
    match channel.send_with(&request, descriptors) {
        // It closes the connection at its end.
        Err(ChannelError::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
            return Err(ControlError::Gone { path: path.into() });
        }
        sent => sent.map_err(failed)?,
    }
    let mut fds = [
        PollFd::new(channel.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(ControlError::Wait(errno.into()));
        }
    }
    let [answered, _] = &fds;
    if answered.any() != Some(true) {
        let signal = signals.read_signal().map_err(|errno| ControlError::Wait(errno.into()))?;
        return Ok(Answer::Signal(signal.map_or(0, |info| info.ssi_signo)));
    }
    match channel.receive() {
        Ok(Some(MonitorEvent::Done)) => Ok(Answer::Done),
        Ok(Some(MonitorEvent::Refused { message })) => Err(ControlError::Refused(message)),
        Ok(None) => Err(ControlError::Gone { path: path.into() }),
        Ok(Some(_)) | Err(ChannelError::Malformed(_)) => {
            Err(ControlError::NotControl { path: path.into() })
        }
        Err(source) => Err(failed(source)),
    }
}

fn connect(path: &Path) -> Result<Channel, ControlError> {
    Channel::connect(path).map_err(|source| {
        // The kernel refuses a connection to a file as it does one to a dead socket.
        let is_file = || fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket());
        if source.raw_os_error() == Some(libc::EPROTOTYPE) || is_file() {
            ControlError::NotControl { path: path.into() }
        } else {
            ControlError::Unreachable { path: path.into(), source }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::vm::wait::block_signals;
    use crate::monitor::server::listen_at;
    use nix::sys::socket::accept;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixListener;

    fn pause(path: &Path) -> Result<Answer, ControlError> {
        ask(path, MonitorRequest::Pause, &[], &block_signals().unwrap())
    }

    #[test]
    fn what_is_no_control_socket_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        assert!(matches!(pause(&path("none")), Err(ControlError::Unreachable { .. })));
        drop(listen_at(&path("dead")).unwrap());
        assert!(matches!(pause(&path("dead")), Err(ControlError::Unreachable { .. })));
        fs::write(path("file"), "").unwrap();
        assert!(matches!(pause(&path("file")), Err(ControlError::NotControl { .. })));
        let _stream = UnixListener::bind(path("stream")).unwrap();
        assert!(matches!(pause(&path("stream")), Err(ControlError::NotControl { .. })));
    }

    #[test]
    fn each_answer_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = listen_at(&path).unwrap();
        let answered = |answer: Option<&[u8]>| {
            std::thread::scope(|scope| {
                let asks = scope.spawn(|| pause(&path));
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::NONE).unwrap();
                let fd = accept(listener.as_raw_fd()).unwrap();
                // SAFETY: accept returned this descriptor just now and nothing else owns it.
                let client = unsafe { OwnedFd::from_raw_fd(fd) };
                let request: Option<MonitorRequest> =
                    Channel::from(client.try_clone().unwrap()).receive().unwrap();
                assert_eq!(request, Some(MonitorRequest::Pause));
                if let Some(answer) = answer {
                    nix::unistd::write(&client, answer).unwrap();
                }
                drop(client);
                asks.join().unwrap()
            })
        };
        assert_eq!(answered(Some(br#"{"event":"done"}"#)).unwrap(), Answer::Done);
        let refused = answered(Some(br#"{"event":"refused","message":"no"}"#));
        assert!(matches!(refused, Err(ControlError::Refused(message)) if message == "no"));
        assert!(matches!(answered(Some(b"hello")), Err(ControlError::NotControl { .. })));
        assert!(matches!(answered(None), Err(ControlError::Gone { .. })));
    }
}
