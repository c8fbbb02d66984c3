//! Waits for the first of several events.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The place of the first descriptor that is readable or at its end; `None` when the time is over,
/// if there is a limit.
pub fn first_of(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<Option<usize>> {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) => return Ok(polled.iter().position(|fd| fd.any() == Some(true))),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_first_that_is_ready_is_told() {
        let (quiet, _kept) = UnixStream::pair().unwrap();
        let (ended, other) = UnixStream::pair().unwrap();
        drop(other);
        let fds = [quiet.as_fd(), ended.as_fd()];
        assert_eq!(first_of(&fds, None).unwrap(), Some(1));
        assert_eq!(first_of(&fds[..1], Some(Duration::ZERO)).unwrap(), None);
    }
}
