//! The wait for processes that the kernel kills for want of memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cgroup, read_oom_kills};
use crate::error::{Doing, Error, Result};

impl Cgroup {
    /// Blocks until more than `after` of its processes were killed in all (more than now, where that
    /// is not given): how many were. None where its last process is gone, or `client` is.
    pub fn await_oom_kill(
        &self,
        after: Option<u64>,
        client: BorrowedFd<'_>,
    ) -> Result<Option<u64>> {
        let action = || "watch the container's memory";
        let mut memory = self.memory_events().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::Unsupported("a watch of the container's memory".into())
            }
            _ => Error::system(action(), error),
        })?;
        let mut members = File::open(self.file("cgroup.events")).doing(action)?;
        let after = after.unwrap_or_else(|| read_oom_kills(&mut memory));
        loop {
            // Reading first: the files tell of changes since they were read last.
            let has_members = is_populated(&mut members);
            let kills = read_oom_kills(&mut memory);
            if kills > after {
                return Ok(Some(kills));
            }
            if !has_members {
                return Ok(None);
            }
            let mut fds = [
                PollFd::new(memory.as_fd(), PollFlags::POLLPRI),
                PollFd::new(members.as_fd(), PollFlags::POLLPRI),
                PollFd::new(client, PollFlags::from_bits_retain(libc::POLLRDHUP)),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                count => count.doing(action)?,
            };
            // None: a flag that the library has no name for, which is this one.
            if fds[2].revents().is_none_or(|events| !events.is_empty()) {
                return Ok(None);
            }
        }
    }
}

/// Whether `cgroup.events` tells of processes; a group that is gone has none.
fn is_populated(file: &mut File) -> bool {
    let mut text = String::new();
    let read = io::Seek::rewind(file).and_then(|()| file.read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line == "populated 1")
}
