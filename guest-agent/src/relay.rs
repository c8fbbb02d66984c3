//! Copies bytes between a process's stdio and its stream connection.
//!
//! One thread for each direction. A relay ends at the end of its input, when nobody reads its
//! output any more, or when the process has ended: then what the process left in the pipe is
//! handed over first, and orphans that still hold the pipe are not waited for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::unistd::{read, write};

use crate::transport::Connection;

/// Bytes moved at once: a pipe's capacity.
const CHUNK: usize = 64 << 10;

/// Bytes that a terminal may still hand over after its process has ended.
const TERMINAL_REMAINDER: usize = 1 << 20;

/// A terminal's buffer.
const TERMINAL_CHUNK: usize = 4 << 10;

/// Process → host, out of a pipe. The stream's end follows the last byte.
pub fn output(pipe: OwnedFd, stream: &Connection, ended: &EventFd) {
    let mut copy = Copy {
        from: pipe.as_fd(),
        to: To::Stream { stream, half_closed: false },
        ended: ended.as_fd(),
    };
    let mut step =
        |limit: usize| splice(&pipe, None, stream, None, limit, SpliceFFlags::SPLICE_F_MOVE);
    if copy.run(&mut step) {
        copy.drain(pending_bytes(&pipe), &mut step);
    }
    stream.end_output();
}

/// Host → process, into a pipe. The pipe's end follows the last byte.
pub fn input(stream: &Connection, pipe: OwnedFd, ended: &EventFd) {
    let mut copy =
        Copy { from: stream.as_fd(), to: To::Process(pipe.as_fd()), ended: ended.as_fd() };
    copy.run(&mut |limit| splice(stream, None, &pipe, None, limit, SpliceFFlags::SPLICE_F_MOVE));
    stream.end();
}

/// Process → host, out of a terminal.
pub fn terminal_output(master: &Arc<OwnedFd>, stream: &Connection, ended: &EventFd) {
    let mut copy = Copy {
        from: master.as_fd(),
        to: To::Stream { stream, half_closed: false },
        ended: ended.as_fd(),
    };
    let mut step = |limit: usize| copy_through_buffer(master.as_fd(), stream.as_fd(), limit);
    if copy.run(&mut step) {
        copy.drain(TERMINAL_REMAINDER, &mut step);
    }
    stream.end_output();
}

/// Host → process, into a terminal.
pub fn terminal_input(stream: &Connection, master: &Arc<OwnedFd>, ended: &EventFd) {
    let mut copy =
        Copy { from: stream.as_fd(), to: To::Process(master.as_fd()), ended: ended.as_fd() };
    copy.run(&mut |limit| copy_through_buffer(stream.as_fd(), master.as_fd(), limit));
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
    ended: BorrowedFd<'a>,
}

impl Copy<'_> {
    /// Copies until there is no more to do; true where the process has ended before its output.
    fn run(&mut self, step: Step<'_>) -> bool {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                Err(_) => return false,
            };
            if ready.process_ended {
                return true;
            }
            if ready.reader_gone {
                return false;
            }
            if ready.input {
                match step(CHUNK) {
                    Ok(0) => return false,
                    Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                    Err(_) => return false,
                }
            }
        }
    }

    /// Copies up to `remainder` bytes of what is there, without waiting for more.
    fn drain(&self, mut remainder: usize, step: Step<'_>) {
        while remainder > 0 && has_input(self.from) {
            match step(remainder.min(CHUNK)) {
                Ok(0) => return,
                Ok(n) => remainder = remainder.saturating_sub(n),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => return,
            }
        }
    }

    fn wait(&mut self) -> nix::Result<Ready> {
        let (to, to_events) = match &self.to {
            To::Process(fd) => (*fd, 0),
            To::Stream { stream, half_closed: true } => (stream.as_fd(), 0),
            To::Stream { stream, half_closed: false } => (stream.as_fd(), libc::POLLRDHUP),
        };
        let [from, to, ended] =
            poll_all([(self.from, libc::POLLIN), (to, to_events), (self.ended, libc::POLLIN)])?;
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

/// Blocks until something has happened, and says what. nix has no name for `POLLRDHUP`.
fn poll_all<const N: usize>(
    watched: [(BorrowedFd<'_>, libc::c_short); N],
) -> nix::Result<[libc::c_short; N]> {
    let mut fds =
        watched.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    // SAFETY: the pointer and the count are those of one live array.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, -1) };
    Errno::result(result)?;
    Ok(fds.map(|fd| fd.revents))
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

fn copy_through_buffer(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    limit: usize,
) -> nix::Result<usize> {
    let mut buffer = [0u8; TERMINAL_CHUNK];
    let limit = limit.min(buffer.len());
    let n = read(from, &mut buffer[..limit])?;
    let mut rest = &buffer[..n];
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
