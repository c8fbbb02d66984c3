//! Copies bytes between a process's stdio and its stream connection.
//!
//! One thread for each direction. A relay stops at the end of its input, when nobody reads its
//! output any more, or when the process has ended: then what the process left in the pipe is
//! handed over first, and orphans that still hold the pipe are not waited for. What follows is for
//! the caller to say, who may have another connection to go on with.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::unistd::{read, write};

use crate::transport::{Connection, poll_all};

/// Bytes moved at once: a pipe's capacity.
const CHUNK: usize = 64 << 10;

/// Bytes that a terminal may still hand over after its process has ended.
const TERMINAL_REMAINDER: usize = 1 << 20;

/// A terminal's buffer.
const TERMINAL_CHUNK: usize = 4 << 10;

/// Why a relay has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There is nothing more to relay.
    Finished,
    /// The connection takes or gives no more bytes.
    Lost,
}

/// Process → host, out of a pipe. What the connection did not take stays in the pipe.
pub fn output(pipe: &OwnedFd, stream: &Connection, ended: &EventFd) -> End {
    let copy = Copy { from: pipe.as_fd(), to: To::Stream { stream, half_closed: false }, ended };
    let mut step =
        |limit: usize| splice(pipe, None, stream, None, limit, SpliceFFlags::SPLICE_F_MOVE);
    copy.run_out(stream, || pending_bytes(pipe), &mut step)
}

/// Host → process, into a pipe.
pub fn input(stream: &Connection, pipe: &OwnedFd, ended: &EventFd) -> End {
    let copy = Copy { from: stream.as_fd(), to: To::Process(pipe.as_fd()), ended };
    copy.run_in(stream, &mut |limit| {
        splice(stream, None, pipe, None, limit, SpliceFFlags::SPLICE_F_MOVE)
    })
}

/// Bytes that were taken from a terminal and not handed over yet.
#[derive(Debug, Default)]
pub struct Remainder(Vec<u8>);

/// Process → host, out of a terminal.
pub fn terminal_output(
    master: &OwnedFd,
    stream: &Connection,
    ended: &EventFd,
    remainder: &mut Remainder,
) -> End {
    if hand_over(remainder, stream).is_err() {
        return End::Lost;
    }
    let copy = Copy { from: master.as_fd(), to: To::Stream { stream, half_closed: false }, ended };
    copy.run_out(stream, || TERMINAL_REMAINDER, &mut |limit| {
        let n = take(master, limit, remainder)?;
        hand_over(remainder, stream)?;
        Ok(n)
    })
}

/// Host → process, into a terminal.
pub fn terminal_input(stream: &Connection, master: &OwnedFd, ended: &EventFd) -> End {
    let copy = Copy { from: stream.as_fd(), to: To::Process(master.as_fd()), ended };
    let mut bytes = Remainder::default();
    copy.run_in(stream, &mut |limit| {
        let n = take(stream, limit, &mut bytes)?;
        hand_over(&mut bytes, master)?;
        Ok(n)
    })
}

/// Throws the output of a process away, until there is no more or the process has ended.
pub fn discard(from: &OwnedFd, ended: &EventFd) {
    let mut bytes = Remainder::default();
    loop {
        match poll_all([(from.as_fd(), libc::POLLIN), (ended.as_fd(), libc::POLLIN)]) {
            Err(Errno::EINTR) => continue,
            Ok([_, 0]) => {}
            // The pipe goes with its readers.
            _ => return,
        }
        match take(from, CHUNK, &mut bytes) {
            Ok(1..) | Err(Errno::EINTR | Errno::EAGAIN) => bytes.0.clear(),
            Ok(0) | Err(_) => return,
        }
    }
}

/// Moves up to `limit` bytes and says how many; 0 is the end of the input.
type Step<'a> = &'a mut dyn FnMut(usize) -> nix::Result<usize>;

enum To<'a> {
    Process(BorrowedFd<'a>),
    /// A host that will send nothing on an output stream may have closed that half of it.
    Stream {
        stream: &'a Connection,
        half_closed: bool,
    },
}

struct Copy<'a> {
    from: BorrowedFd<'a>,
    to: To<'a>,
    ended: &'a EventFd,
}

/// Why a copy has stopped.
enum Stop {
    /// The input has ended.
    NoInput,
    /// Nobody takes the output.
    NoReader,
    /// The process has ended; there may be input left.
    ProcessEnded,
    /// One of the two sides failed.
    Failed,
}

impl Copy<'_> {
    /// Copies to the host; `left` says how many bytes an ended process may have left.
    fn run_out(mut self, stream: &Connection, left: impl FnOnce() -> usize, step: Step<'_>) -> End {
        let handed_over = match self.run(step) {
            Stop::NoInput => true,
            Stop::NoReader => false,
            Stop::ProcessEnded => self.drain(left(), step).is_ok() || !stream.is_gone(),
            // A terminal without a process fails too.
            Stop::Failed => !stream.is_gone(),
        };
        if handed_over { End::Finished } else { End::Lost }
    }

    /// Copies from the host.
    fn run_in(mut self, stream: &Connection, step: Step<'_>) -> End {
        match self.run(step) {
            Stop::NoReader | Stop::ProcessEnded => End::Finished,
            Stop::Failed if !stream.is_gone() => End::Finished,
            Stop::NoInput | Stop::Failed => End::Lost,
        }
    }

    /// Copies until there is no more to do.
    fn run(&mut self, step: Step<'_>) -> Stop {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(_) => return Stop::Failed,
            };
            if ready.process_ended {
                return Stop::ProcessEnded;
            }
            if ready.reader_gone {
                return Stop::NoReader;
            }
            if ready.input {
                match step(CHUNK) {
                    Ok(0) => return Stop::NoInput,
                    Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(_) => return Stop::Failed,
                }
            }
        }
    }

    /// Copies up to `remainder` bytes of what is there, without waiting for more.
    fn drain(&self, mut remainder: usize, step: Step<'_>) -> nix::Result<()> {
        while remainder > 0 && has_input(self.from) {
            match step(remainder.min(CHUNK)) {
                Ok(0) => return Ok(()),
                Ok(n) => remainder = remainder.saturating_sub(n),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> nix::Result<Ready> {
        let (to, to_events) = match &self.to {
            To::Process(fd) => (*fd, 0),
            To::Stream { stream, half_closed: true } => (stream.as_fd(), 0),
            To::Stream { stream, half_closed: false } => (stream.as_fd(), libc::POLLRDHUP),
        };
        let [from, to, ended] = poll_all([
            (self.from, libc::POLLIN),
            (to, to_events),
            (self.ended.as_fd(), libc::POLLIN),
        ])?;
        let mut reader_gone = to & (libc::POLLERR | libc::POLLHUP) != 0;
        if let To::Stream { stream, half_closed } = &mut self.to
            && to & libc::POLLRDHUP != 0
        {
            *half_closed = true;
            reader_gone |= !stream.takes_bytes();
        }
        Ok(Ready { input: from != 0, reader_gone, process_ended: ended != 0 })
    }
}

struct Ready {
    input: bool,
    reader_gone: bool,
    process_ended: bool,
}

fn has_input(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN))
}

fn pending_bytes(pipe: &OwnedFd) -> usize {
    nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
    let mut bytes = 0;
    // SAFETY: FIONREAD stores one int behind the pointer, which is to a live one.
    match unsafe { fionread(pipe.as_raw_fd(), &raw mut bytes) } {
        Ok(_) => usize::try_from(bytes).unwrap_or(0),
        Err(_) => 0,
    }
}

/// Reads what there is after the remainder, at most a terminal's buffer.
fn take(from: &impl AsFd, limit: usize, remainder: &mut Remainder) -> nix::Result<usize> {
    let mut buffer = [0u8; TERMINAL_CHUNK];
    let limit = limit.min(buffer.len());
    let n = read(from, &mut buffer[..limit])?;
    remainder.0.extend_from_slice(&buffer[..n]);
    Ok(n)
}

/// Writes the remainder; what is not taken is still there afterwards.
fn hand_over(remainder: &mut Remainder, to: &impl AsFd) -> nix::Result<()> {
    let bytes = &mut remainder.0;
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(written) => drop(bytes.drain(..written)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
