//! Frames over a stream socket, each behind its length in 4 bytes, the most significant one first: what
//! QEMU's `-netdev stream` speaks, and so passt.
//!
//! Whoever is at the other end sees plain frames. What a guest has left to the device is done here: the
//! checksum, and the cutting of long frames into segments. Frames are gathered while a queue is drained, and
//! sent by one system call; of what the other end sends, as much as there is room for is taken by one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::super::checksum;
use super::super::error::NetError;
use super::super::header::{self, Header};
use super::super::segment::Segments as Cuts;
use super::SendError;
use crate::vmm::devices::virtio::buffers::Segments;

/// Bytes of a length.
const PREFIX: usize = 4;

/// Room for what has come: the longest frame, and as much again of those behind it.
const INBOX: usize = 2 * (PREFIX + header::MAX_FRAME);

/// Bytes that are gathered before they are sent, or wait for room.
const GATHERED: usize = 128 << 10;

/// Most bytes that one frame of the guest becomes, with what is gathered before it: for segments of 40
/// bytes and above.
const OUTBOX: usize = GATHERED + (384 << 10);

/// Connects to who takes frames.
pub fn connect(path: &Path) -> Result<OwnedFd, NetError> {
    let connected = UnixStream::connect(path);
    connected.map(OwnedFd::from).map_err(|source| NetError::Connect { path: path.into(), source })
}

/// One end of a stream of frames. It does not block, whatever the socket's flags say.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    inbox: Inbox,
    /// What is to be sent, `sent` bytes of which are.
    outbox: Vec<u8>,
    sent: usize,
    /// The guest's frame, as it was at one moment: it can write to its own memory all the time.
    frame: Vec<u8>,
    ended: bool,
}

impl Stream {
    /// Over a stream socket that is connected.
    pub fn new(socket: OwnedFd) -> Self {
        let (outbox, frame) = (Vec::new(), Vec::new());
        Self { socket, inbox: Inbox::new(), outbox, sent: 0, frame, ended: false }
    }

    /// Whether the other end is closed, or has sent what is no frame.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// See [`super::Backend::receive`].
    pub fn receive(&mut self, into: &Segments) -> io::Result<usize> {
        loop {
            match self.inbox.next() {
                Next::Frame(frame) => {
                    let len = header::LEN + frame.len();
                    if into.write_at(0, &[0; header::LEN]) {
                        // A frame that does not fit is cut, which its length says.
                        let _ = into.write_at(header::LEN, frame);
                    }
                    self.inbox.consume();
                    return Ok(len);
                }
                Next::Part => {}
                Next::TooLong => {
                    // Where the next one begins, nobody knows.
                    self.end();
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            if self.ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            match recv(self.socket.as_raw_fd(), self.inbox.room(), MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.end(),
                Ok(came) => self.inbox.filled(came),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(errno) => {
                    self.end();
                    return Err(errno.into());
                }
            }
        }
    }

    /// See [`super::Backend::send`]: the frame is gathered, and sent by [`Stream::flush`].
    pub fn send(&mut self, frame: &Segments, header: &Header) -> Result<(), SendError> {
        if self.waiting() >= GATHERED && !self.flush() {
            return Err(SendError::Full);
        }
        if self.ended {
            return Err(SendError::Host);
        }
        self.frame.resize(frame.len(), 0);
        let bytes = frame.peek(&mut self.frame).then(|| self.frame.get_mut(header::LEN..));
        let bytes = bytes.flatten().ok_or(SendError::Header)?;
        if let Some((kind, size)) = header.cut() {
            let cuts = Cuts::new(bytes, kind, size, header.checksum_start);
            let cuts = cuts.map_err(|_| SendError::Header)?;
            let prefixes = cuts.count().saturating_mul(PREFIX);
            let all = cuts.bytes().saturating_add(prefixes).saturating_add(self.outbox.len());
            if all > OUTBOX {
                return Err(SendError::Header);
            }
            for index in 0..cuts.count() {
                self.outbox.extend_from_slice(&prefix(cuts.len_of(index)));
                cuts.append(index, &mut self.outbox);
            }
            return Ok(());
        }
        if header.needs_checksum() {
            checksum::complete(bytes, header.checksum_start, header.checksum_offset)
                .map_err(|_| SendError::Header)?;
        }
        self.outbox.extend_from_slice(&prefix(bytes.len()));
        self.outbox.extend_from_slice(bytes);
        Ok(())
    }

    /// See [`super::Backend::flush`].
    pub fn flush(&mut self) -> bool {
        while let Some(rest) = self.outbox.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), rest, flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    // Not to grow by what is sent already.
                    self.outbox.drain(..self.sent);
                    self.sent = 0;
                    return false;
                }
                Err(_) => self.end(),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        true
    }

    fn waiting(&self) -> usize {
        self.outbox.len() - self.sent
    }

    fn end(&mut self) {
        self.ended = true;
        self.outbox.clear();
        self.sent = 0;
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A length as it is sent. No frame is longer than a length can say.
fn prefix(len: usize) -> [u8; PREFIX] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// What has come and is no guest's yet.
#[derive(Debug)]
struct Inbox {
    bytes: Box<[u8]>,
    /// What is in use of it.
    from: usize,
    to: usize,
}

/// What is at the front of an [`Inbox`].
enum Next<'a> {
    /// A whole frame.
    Frame(&'a [u8]),
    /// Less than that.
    Part,
    /// The length of what is no frame.
    TooLong,
}

impl Inbox {
    fn new() -> Self {
        Self { bytes: vec![0; INBOX].into_boxed_slice(), from: 0, to: 0 }
    }

    /// The length of the first frame, if that is there.
    fn length(&self) -> Option<usize> {
        let prefix = self.bytes.get(self.from..self.to)?.first_chunk::<PREFIX>()?;
        Some(usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX))
    }

    fn next(&self) -> Next<'_> {
        let Some(len) = self.length() else {
            return Next::Part;
        };
        if len > header::MAX_FRAME {
            return Next::TooLong;
        }
        let begin = self.from + PREFIX;
        match self.bytes.get(begin..self.to).and_then(|rest| rest.get(..len)) {
            Some(frame) => Next::Frame(frame),
            None => Next::Part,
        }
    }

    /// Drops the first frame, which is there.
    fn consume(&mut self) {
        let len = PREFIX.saturating_add(self.length().unwrap_or_default());
        self.from = self.from.saturating_add(len).min(self.to);
    }

    /// Room for more, which is never empty: what is in use is at most a part of one frame.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        self.bytes.get_mut(self.to..).unwrap_or_default()
    }

    fn filled(&mut self, came: usize) {
        self.to = self.to.saturating_add(came).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests;
