//! What an agent tells without being asked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use ampoule_protocol::frame::{self, FrameError, MAX_FRAME};
use ampoule_protocol::message::Event;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::client::ClientError;
use super::words::cut;

/// Bytes of a frame's length.
const PREFIX: usize = 4;

/// Bytes that are taken at a time.
const CHUNK: usize = 4096;

/// The connection on which an agent tells its events; it lasts as long as the guest, or until it
/// becomes a template.
#[derive(Debug)]
pub struct Events {
    socket: UnixStream,
    /// What has come of the next event's frame.
    frame: Vec<u8>,
}

impl Events {
    /// On a connection whose greeting was taken.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, frame: Vec::new() }
    }

    /// Takes the next event; `None` where it is not there whole. Never waits: an agent that sends half
    /// an event holds up nothing.
    ///
    /// # Errors
    /// The connection has ended, or carries something else.
    pub fn event(&mut self) -> Result<Option<Event>, ClientError> {
        self.take().map_err(ClientError::Frame)
    }

    fn take(&mut self) -> Result<Option<Event>, FrameError> {
        let mut chunk = [0u8; CHUNK];
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                let frame = std::mem::take(&mut self.frame);
                return frame::parse(&frame[PREFIX..]).map(|event| Some(shortened(event)));
            }
            let room = &mut chunk[..missing.min(CHUNK)];
            match recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if self.frame.is_empty() => return Err(FrameError::Closed),
                Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.frame.extend_from_slice(&room[..n]),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(FrameError::Io(errno.into())),
            }
        }
    }

    /// Bytes that the frame still lacks: of its length first, then of its body.
    fn missing(&self) -> Result<usize, FrameError> {
        let Some(prefix) = self.frame.first_chunk::<PREFIX>() else {
            return Ok(PREFIX - self.frame.len());
        };
        let length = u32::from_le_bytes(*prefix);
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length.into()));
        }
        let whole = PREFIX + usize::try_from(length).unwrap_or(usize::MAX - PREFIX);
        // A frame of no bytes is whole, and no event.
        Ok(whole.saturating_sub(self.frame.len()))
    }
}

fn shortened(event: Event) -> Event {
    match event {
        Event::Fatal { message } => Event::Fatal { message: cut(message) },
        other => other,
    }
}

impl AsFd for Events {
    /// Readable when there is more of an event, or the connection's end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::words::LIMIT;
    use std::io::Write;

    fn pair() -> (Events, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Events::new(ours), theirs)
    }

    #[test]
    fn an_event_is_taken_when_it_is_whole_and_nothing_is_waited_for() {
        let (mut events, mut agent) = pair();
        let event = Event::OutOfMemory { container: "c".into() };
        let frame = frame::encode(&event).unwrap();
        assert_eq!(events.event().unwrap(), None);
        for byte in &frame {
            assert_eq!(events.event().unwrap(), None);
            agent.write_all(&[*byte]).unwrap();
        }
        assert_eq!(events.event().unwrap(), Some(event.clone()));
        agent.write_all(&[frame.clone(), frame].concat()).unwrap();
        for _ in 0..2 {
            assert_eq!(events.event().unwrap(), Some(event.clone()));
        }
        assert_eq!(events.event().unwrap(), None);
        drop(agent);
        assert!(matches!(events.event(), Err(ClientError::Frame(FrameError::Closed))));
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let cases: [&[u8]; 4] = [&[0xff; 8], &[0, 0, 0, 0], b"\x02\0\0\0{}", b"\x05\0\0\0[[[[["];
        for bytes in cases {
            let (mut events, mut agent) = pair();
            agent.write_all(bytes).unwrap();
            assert!(events.event().is_err(), "{bytes:?}");
        }
        let (mut events, mut agent) = pair();
        agent.write_all(&[9, 0, 0, 0, b'{']).unwrap();
        drop(agent);
        assert!(events.event().is_err());
    }

    #[test]
    fn an_agents_last_words_are_cut() {
        let (mut events, mut agent) = pair();
        let message = "x".repeat(LIMIT * 8);
        agent.write_all(&frame::encode(&Event::Fatal { message }).unwrap()).unwrap();
        let Some(Event::Fatal { message }) = events.event().unwrap() else { panic!("no event") };
        assert!(message.len() < LIMIT * 2);
    }
}
