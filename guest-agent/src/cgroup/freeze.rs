//! What a group's `cgroup.events` tells: its processes stand still, or are gone.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Cgroup, is_gone};
use crate::error::{Doing, Result};

/// How long a process may take to stand still: one that waits for a disk does not hear of it.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes its processes, and those of groups below it, and waits until they stand still.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("1")?;
        if self.wait_for_event("frozen 1", Some(FREEZE_DEADLINE))? {
            return Ok(());
        }
        Err(io::Error::from(io::ErrorKind::TimedOut)).doing(|| "freeze the container's processes")
    }

    /// Lets its processes go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("0")
    }

    fn set_frozen(&self, value: &str) -> Result<()> {
        let file = self.file("cgroup.freeze");
        fs::write(&file, value).doing(|| format!("write {value} to {}", file.display()))
    }

    /// Blocks until `cgroup.events` has this line, or the group is gone; false where that takes too
    /// long.
    pub(super) fn wait_for_event(&self, line: &str, patience: Option<Duration>) -> Result<bool> {
        let path = self.file("cgroup.events");
        let action = || format!("watch {}", path.display());
        let mut file = match File::open(&path) {
            Err(e) if is_gone(&e) => return Ok(true),
            result => result.doing(action)?,
        };
        let deadline = patience.map(|patience| Instant::now() + patience);
        loop {
            let mut text = String::new();
            io::Seek::rewind(&mut file).doing(action)?;
            match file.read_to_string(&mut text) {
                Err(e) if is_gone(&e) => return Ok(true),
                result => result.doing(action)?,
            };
            if text.lines().any(|found| found == line) {
                return Ok(true);
            }
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => {}
                result => drop(result.doing(action)?),
            }
        }
    }
}
