//! Whole JSON messages over a `SOCK_SEQPACKET` socket pair between two of ampoule's own processes:
//! one message is one packet, so nothing is framed and nothing can be cut.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message in bytes: far above a machine's configuration or a console's tail, and below
/// what a socket buffer takes by default.
const LIMIT: usize = 128 << 10;

/// Why a message could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// the socket failed
    #[error("the control socket failed")]
    Io(#[from] io::Error),
    /// not the message that was expected
    #[error("malformed control message")]
    Malformed(#[from] serde_json::Error),
    /// beyond the limit
    #[error("a control message of {0} bytes is beyond the limit of {LIMIT}")]
    TooLarge(usize),
}

/// One end of a pair.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// A connected pair, closed on exec.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self { socket: ours }, theirs))
    }

    /// The end that a process was given as its standard input. Fails where that is something else.
    pub fn from_stdin() -> io::Result<Self> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        // A shell's stdin is no socket of this kind: say so before anything is sent or read.
        let kind = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::SockType)?;
        if kind != SockType::SeqPacket {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { socket })
    }

    /// Sends a message whole.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LIMIT {
            return Err(ChannelError::TooLarge(bytes.len()));
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).map_err(io::Error::from)?;
        Ok(())
    }

    /// Takes a message; `None` when the other end is closed.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        let mut bytes = vec![0u8; LIMIT];
        let n = loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                other => break other.map_err(io::Error::from)?,
            }
        };
        // No message is empty: JSON has at least one byte.
        if n == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&bytes[..n])?))
    }
}

impl AsFd for Channel {
    /// Readable when a message, or the other end's close, is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_and_the_end_is_seen() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel { socket: theirs };
        let long = "x".repeat(100_000);
        theirs.send(&long).unwrap();
        theirs.send(&"second").unwrap();
        drop(theirs);
        assert_eq!(ours.receive::<String>().unwrap().unwrap(), long);
        assert_eq!(ours.receive::<String>().unwrap().unwrap(), "second");
        assert!(ours.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn what_is_too_large_or_not_expected_is_an_error() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel { socket: theirs };
        assert!(matches!(theirs.send(&"x".repeat(LIMIT)), Err(ChannelError::TooLarge(_))));
        theirs.send(&1).unwrap();
        assert!(matches!(ours.receive::<String>(), Err(ChannelError::Malformed(_))));
    }
}
