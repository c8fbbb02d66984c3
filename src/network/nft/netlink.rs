//! Sockets of `NETLINK_NETFILTER`, and messages as all of netfilter's subsystems have them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};

use super::error::NftError;

/// The kernel fills no more in one answer.
const ANSWER: usize = 32 << 10;

/// A socket to netfilter of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: netlink_sys::Socket,
    answer: Vec<u8>,
}

/// A message of the kernel's.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// What it is, with its subsystem.
    pub kind: u16,
    /// Number of the message that it answers.
    pub number: u32,
    /// What it is part of changed while it was read.
    pub interrupted: bool,
    /// What follows netlink's header.
    pub payload: &'a [u8],
}

impl Netlink {
    /// Opens one.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(NftError::Socket)?;
        // Errors do not repeat what they are about.
        socket.set_cap_ack(true).map_err(NftError::Socket)?;
        socket.bind_auto().map_err(NftError::Socket)?;
        Ok(Self { socket, answer: Vec::with_capacity(ANSWER) })
    }

    /// Hears what is told to all of a group (`NFNLGRP_*`), too.
    pub fn join(&mut self, group: u32) -> Result<(), NftError> {
        self.socket.add_membership(group).map_err(NftError::Socket)
    }

    /// What was received last.
    pub fn answers(&self) -> impl Iterator<Item = Result<Answer<'_>, NftError>> {
        answers(&self.answer)
    }

    /// Messages that are longer than the system's default are sent as well.
    pub fn make_room(&self, length: usize) -> Result<(), NftError> {
        if length < 64 << 10 {
            return Ok(());
        }
        setsockopt(&self.socket, sockopt::SndBufForce, &length.saturating_mul(2))
            .map_err(|error| NftError::Socket(error.into()))
    }

    /// What was left unread of earlier answers is no answer to this.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), NftError> {
        while self.receive()? {}
        let kernel = SocketAddr::new(0, 0);
        let sent = self.socket.send_to(bytes, &kernel, 0).map_err(NftError::Socket)?;
        if sent == bytes.len() { Ok(()) } else { Err(NftError::TooLong) }
    }

    /// Takes the next of what the kernel has said; false where that was all.
    pub fn receive(&mut self) -> Result<bool, NftError> {
        loop {
            self.answer.clear();
            match self.socket.recv_from(&mut self.answer, libc::MSG_DONTWAIT) {
                // Others may write to the socket, too.
                Ok((_, sender)) if sender.port_number() != 0 => (),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(NftError::Socket(error)),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages of an answer.
pub fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Result<Answer<'_>, NftError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(header) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(Err(NftError::Answer));
        };
        let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
        let (message, rest) = bytes.split_at_checked(length)?;
        // The last one may be without what fills it up to a multiple of four.
        let padding = (length.next_multiple_of(4) - length).min(rest.len());
        bytes = rest.get(padding..).unwrap_or_default();
        Some(Ok(Answer {
            kind: header.message_type(),
            number: header.sequence_number(),
            interrupted: header.flags() & netlink_packet_core::NLM_F_DUMP_INTR != 0,
            payload: message.get(16..).unwrap_or_default(),
        }))
    })
}

/// The error that an answer tells, 0 for an acknowledgement; none where it is another answer.
pub fn error_code(answer: &Answer<'_>) -> Result<Option<i32>, NftError> {
    let kind = i32::from(answer.kind);
    if kind != libc::NLMSG_ERROR && kind != libc::NLMSG_DONE {
        return Ok(None);
    }
    match answer.payload.first_chunk::<4>() {
        Some(code) => Ok(Some(i32::from_ne_bytes(*code).saturating_neg())),
        None if kind == libc::NLMSG_DONE => Ok(None),
        None => Err(NftError::Answer),
    }
}

/// A message of netfilter's: netlink's header, `struct nfgenmsg`, attributes.
pub fn message(
    kind: u16,
    flags: u16,
    number: u32,
    family: u8,
    resource: u16,
    attributes: &[u8],
) -> Option<Vec<u8>> {
    let length = u32::try_from(20 + attributes.len()).ok()?;
    let request = u16::try_from(libc::NLM_F_REQUEST).ok()?;
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | request).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    // The port: the kernel knows.
    bytes.extend([0; 4]);
    // NFNETLINK_V0.
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    Some(bytes)
}
