//! Whole JSON messages over a `SOCK_SEQPACKET` socket pair between two of ampoule's own processes:
//! one message is one packet, so nothing is framed and nothing can be cut. Descriptors may come with
//! a message.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recv, recvmsg, sendmsg, setsockopt, socket, socketpair,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message in bytes: far above a machine's configuration or a console's tail, and below
/// what a socket buffer takes by default.
const LIMIT: usize = 128 << 10;

/// Most descriptors that are taken with a message.
pub const MAX_DESCRIPTORS: usize = 8;

/// Why a message could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// the socket failed
    #[error("the control socket failed")]
    Io(#[from] io::Error),
    /// not the message that was expected
    #[error("malformed control message")]
    Malformed(#[from] serde_json::Error),
    /// more than belong to the message
    #[error("a control message came with {0} descriptors too many or too few")]
    Descriptors(usize),
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

    /// The end that a process was given as this descriptor. Fails where that is something else.
    ///
    /// # Safety
    /// Nothing else of the process owns the descriptor.
    pub unsafe fn given(descriptor: RawFd) -> io::Result<Self> {
        // Whether it is open at all, before it is owned.
        // SAFETY: no memory is involved.
        Errno::result(unsafe { libc::fcntl(descriptor, libc::F_GETFD) })?;
        // SAFETY: it is open, and the caller says that it is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Self::checked(socket)
    }

    /// The end that a process was given as its standard input. Fails where that is something else.
    pub fn from_stdin() -> io::Result<Self> {
        Self::checked(io::stdin().as_fd().try_clone_to_owned()?)
    }

    /// What a shell has there is no socket of this kind: that is said before anything is sent or read.
    fn checked(socket: OwnedFd) -> io::Result<Self> {
        let kind = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::SockType)?;
        if kind != SockType::SeqPacket {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { socket })
    }

    /// The end that somebody who has connected was given.
    pub fn accepted(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// The same end once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Connects to a listening socket.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { socket })
    }

    /// Connects to a listening socket, and gives up on that, and on each message, after this long.
    pub fn connect_within(path: &Path, patience: Duration) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let seconds = libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX);
        // Whoever listens may not let anybody in.
        setsockopt(&socket, SendTimeout, &TimeVal::new(seconds, 0))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        let channel = Self { socket };
        channel.set_patience(patience)?;
        Ok(channel)
    }

    /// Gives up on a receive after this long.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let seconds = libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX);
        setsockopt(&self.socket, ReceiveTimeout, &TimeVal::new(seconds, 0))?;
        Ok(())
    }

    /// Sends a message whole.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.send_with(message, &[])
    }

    /// Sends a message whole, with descriptors.
    pub fn send_with<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LIMIT {
            return Err(ChannelError::TooLarge(bytes.len()));
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights };
        let parts = [IoSlice::new(&bytes)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(io::Error::from)?;
        Ok(())
    }

    /// Takes a message and up to [`MAX_DESCRIPTORS`] descriptors; `None` when the other end is
    /// closed.
    ///
    /// # Errors
    /// More than `most` descriptors came with it: they are closed.
    pub fn receive_with<T: DeserializeOwned>(
        &self,
        most: usize,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let mut bytes = vec![0u8; LIMIT];
        let mut room = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut descriptors = Vec::new();
        let n = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                Err(errno) => return Err(io::Error::from(errno).into()),
                Ok(message) => {
                    for part in message.cmsgs().map_err(io::Error::from)? {
                        if let ControlMessageOwned::ScmRights(fds) = part {
                            // SAFETY: the kernel made these descriptors for this process just now.
                            descriptors.extend(
                                fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                            );
                        }
                    }
                    break message.bytes;
                }
            }
        };
        if n == 0 {
            return Ok(None);
        }
        if descriptors.len() > most {
            return Err(ChannelError::Descriptors(descriptors.len()));
        }
        Ok(Some((serde_json::from_slice(&bytes[..n])?, descriptors)))
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

impl From<OwnedFd> for Channel {
    /// An end that somebody else made.
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
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
    fn descriptors_come_with_their_message_and_no_more_than_are_wanted() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel { socket: theirs };
        let file = tempfile::tempfile().unwrap();
        for _ in 0..2 {
            theirs.send_with(&"two", &[file.as_fd(), file.as_fd()]).unwrap();
        }
        let (message, files) = ours.receive_with::<String>(2).unwrap().unwrap();
        assert_eq!((message.as_str(), files.len()), ("two", 2));
        let refused = ours.receive_with::<String>(1);
        assert!(matches!(refused, Err(ChannelError::Descriptors(2))));
        theirs.send(&"none").unwrap();
        assert!(ours.receive_with::<String>(2).unwrap().unwrap().1.is_empty());
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
