//! The socket between the agent and a setup stage: frames with descriptors one way, single-byte
//! orders the other.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use ampoule_protocol::frame::{self, FrameError};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Doing, Error, Result};

/// Most descriptors that one message carries: cgroup, pidfd or network namespace, and three of stdio.
const MAX_DESCRIPTORS: usize = 5;

/// What the agent tells a setup stage after its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The stage's first process may exit.
    LetGo = b'l' as isize,
    /// Execute the program.
    Start = b's' as isize,
}

/// Sends a message; the descriptors come with its first byte.
pub fn send(
    socket: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let frame = frame::encode(message).map_err(failed)?;
    let fds: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&frame)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .doing(|| "send to the other side of the set-up")?;
    let mut socket = socket;
    socket
        .write_all(frame.get(sent..).unwrap_or_default())
        .doing(|| "send to the other side of the set-up")
}

/// Sends a frame's body that was received elsewhere.
pub fn send_body(mut socket: &UnixStream, body: &[u8]) -> Result<()> {
    let action = || "send to the other side of the set-up";
    let length = u32::try_from(body.len()).map_err(std::io::Error::other).doing(action)?;
    socket.write_all(&length.to_le_bytes()).doing(action)?;
    socket.write_all(body).doing(action)
}

/// Receives a message and its descriptors; none at the socket's end.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut first = [0u8; 4];
    let (length, descriptors) = receive_first(socket, &mut first)?;
    let mut rest = first.get(..length).unwrap_or_default().chain(socket);
    match frame::read(&mut rest) {
        Ok(message) => Ok(Some((message, descriptors))),
        Err(FrameError::Closed) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

fn receive_first(socket: &UnixStream, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut buffers = [IoSliceMut::new(bytes)];
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .doing(|| "receive from the other side of the set-up")?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs().doing(|| "receive descriptors")? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel installed these descriptors for this message just now, and
            // nothing else owns them.
            descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

/// Gives an order.
pub fn order(mut socket: &UnixStream, order: Order) -> Result<()> {
    socket.write_all(&[order as u8]).doing(|| "give the setup stage its order")
}

/// Blocks until an order comes; false at the socket's end.
pub fn await_order(mut socket: &UnixStream, expected: Order) -> Result<bool> {
    let mut byte = [0u8; 1];
    match socket.read(&mut byte).doing(|| "await the agent's order")? {
        0 => Ok(false),
        _ if byte == [expected as u8] => Ok(true),
        _ => Err(Error::Invalid(format!("order {byte:?} in place of {expected:?}"))),
    }
}

fn failed(error: FrameError) -> Error {
    match error {
        FrameError::Io(e) => Error::system("talk to the other side of the set-up", e),
        other => {
            Error::system("talk to the other side of the set-up", std::io::Error::other(other))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_come_with_their_message() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        send(&a, &"first", &[write.as_fd()]).unwrap();
        send(&a, &"second", &[]).unwrap();
        let (text, fds) = receive::<String>(&b).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("first", 1));
        nix::unistd::write(&fds[0], b"x").unwrap();
        let mut byte = [0];
        nix::unistd::read(&read, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let (text, fds) = receive::<String>(&b).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("second", 0));
        drop(a);
        assert!(receive::<String>(&b).unwrap().is_none());
    }

    #[test]
    fn orders_are_told_apart() {
        let (a, b) = UnixStream::pair().unwrap();
        order(&a, Order::LetGo).unwrap();
        assert!(await_order(&b, Order::LetGo).unwrap());
        order(&a, Order::LetGo).unwrap();
        assert!(await_order(&b, Order::Start).is_err());
        drop(a);
        assert!(!await_order(&b, Order::Start).unwrap());
    }
}
