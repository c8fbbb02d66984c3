//! A connection and the stream at its host end: the bytes between guest memory and the socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown as Direction;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::connection::{Connection, Output, Verdict, Violation, Wait};
use super::packet::{HEADER_SIZE, Header, Op, Ports};
use crate::vmm::devices::virtio::buffers::Segments;

/// Bytes that are copied at a time out of guest memory.
const COPY: usize = 4096;

/// Room in a buffer of the guest's receive queue.
#[derive(Debug)]
pub struct Room<'a> {
    /// Exactly a header.
    pub header: &'a mut Segments,
    /// For payload, not empty.
    pub payload: &'a mut Segments,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    /// What may be done.
    pub connection: Connection,
    /// Since when the connection waits, and until when.
    pub deadline: Option<(Wait, Instant)>,
    /// Whether the link is among those that have something for the guest.
    pub queued: bool,
    /// Does not block, and is watched for edges: `writable` and the connection's idea of what is
    /// readable hold until a call says otherwise.
    stream: UnixStream,
    writable: bool,
    /// What the guest sent and the stream did not take, at most [`super::credit::BUFFER`] bytes.
    /// Its memory is there from the first time that it is needed.
    backlog: VecDeque<u8>,
    ended_for_reader: bool,
    ended_for_writer: bool,
}

impl Link {
    /// A link over a stream that does not block.
    pub fn new(connection: Connection, stream: UnixStream) -> Self {
        Self {
            connection,
            deadline: None,
            queued: false,
            stream,
            writable: true,
            backlog: VecDeque::new(),
            ended_for_reader: false,
            ended_for_writer: false,
        }
    }

    /// The stream.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// A packet from the guest, with its payload.
    pub fn packet(
        &mut self,
        op: Op,
        header: &Header,
        payload: &mut Segments,
    ) -> Result<Verdict, Violation> {
        let verdict = self.connection.packet(op, header)?;
        if verdict == Verdict::Deliver {
            self.deliver(payload);
        }
        Ok(verdict)
    }

    /// Says something to the client, ahead of everything else.
    pub fn greet(&mut self, line: &str) {
        // A socket that nothing was written to yet takes a line; else its client is gone.
        if self.stream.write_all(line.as_bytes()).is_err() {
            self.gone();
        }
    }

    /// The stream takes more, or may.
    pub fn stream_writable(&mut self) {
        self.writable = true;
        while self.writable && !self.backlog.is_empty() {
            let (front, back) = self.backlog.as_slices();
            let written = self.stream.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]);
            let n = self.written(written);
            self.backlog.drain(..n.min(self.backlog.len()));
        }
    }

    /// The client has closed its end.
    pub fn stream_hung_up(&mut self) {
        self.connection.stream_readable();
        self.gone();
    }

    /// Passes payload on to the stream, and keeps what it does not take.
    ///
    /// A client that is gone is an error (`EPIPE`) and not a signal: Rust programs begin with
    /// SIGPIPE ignored, and this one leaves it so.
    fn deliver(&mut self, payload: &mut Segments) {
        if self.backlog.is_empty() {
            while self.writable && !payload.is_empty() {
                let written = payload.send(self.stream.as_fd());
                let n = self.written(written);
                payload.consume(n);
            }
        }
        let mut chunk = [0; COPY];
        while !payload.is_empty() && !self.ended_for_reader {
            let (part, _) = chunk.split_at_mut(payload.len().min(COPY));
            if !payload.read(part) {
                break;
            }
            self.backlog.extend(&*part);
        }
    }

    /// Takes in the result of a write, and says how many bytes it wrote.
    fn written(&mut self, result: io::Result<usize>) -> usize {
        match result {
            Ok(n) => {
                // Never above what a packet or the backlog holds.
                self.connection.forwarded(u32::try_from(n).unwrap_or(u32::MAX));
                n
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                self.writable = false;
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.gone();
                }
                0
            }
        }
    }

    /// Nobody reads the stream any more.
    fn gone(&mut self) {
        self.connection.stream_gone();
        self.backlog = VecDeque::new();
        self.writable = false;
        self.ended_for_reader = true;
    }

    /// Puts the next packet for the guest into `room`. The length of the packet, or `None` if there
    /// is nothing to send after all.
    pub fn fill(&mut self, guest_cid: u64, ports: Ports, room: &mut Room<'_>) -> Option<u32> {
        loop {
            let output = self.connection.next()?;
            let len = match output {
                Output::Data { max } => match self.read(max, room.payload) {
                    Some(len) => len,
                    // The stream's state has changed, and so has what comes next.
                    None => continue,
                },
                _ => 0,
            };
            let mut header = Header::to_guest(guest_cid, ports, output.op());
            self.connection.sent(output, len, &mut header);
            let written = room.header.write(&header.encode());
            debug_assert!(written, "there is always room for a header");
            return Some(HEADER_SIZE + len);
        }
    }

    /// Reads at least a byte from the stream, or finds out why there is none.
    fn read(&mut self, max: u32, payload: &mut Segments) -> Option<u32> {
        payload.truncate(usize::try_from(max).unwrap_or(usize::MAX));
        match payload.receive(self.stream.as_fd(), &mut []) {
            Ok(0) => self.connection.stream_ended(),
            // No more than `max`.
            Ok(n) => return u32::try_from(n).ok(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.connection.stream_empty();
            }
            Err(_) => {
                // The client closed without having read everything. All it sent was read before
                // that is reported.
                self.connection.stream_ended();
                self.gone();
            }
        }
        None
    }

    /// Closes those directions of the stream that the guest has closed, once they are complete.
    pub fn settle(&mut self) {
        if self.connection.stream_is_complete() && !self.ended_for_reader {
            self.ended_for_reader = true;
            // Fails only where the client was faster.
            let _ = self.stream.shutdown(Direction::Write);
        }
        if self.connection.guest_takes_no_more() && !self.ended_for_writer {
            self.ended_for_writer = true;
            let _ = self.stream.shutdown(Direction::Read);
        }
    }
}
