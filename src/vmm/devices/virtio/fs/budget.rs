//! How many descriptors a guest may make the process hold: one for each file that it knows (until it
//! forgets it) and one for each that it has open.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the process's limit is raised to, where that is permitted. A descriptor keeps
/// one to two KiB of the host's kernel busy.
const WANTED: u64 = 1 << 19;

/// Descriptors that are left to the rest of the process.
const RESERVED: u64 = 2048;

/// The highest descriptor that files of the guest may have.
#[derive(Debug)]
pub struct Budget {
    limit: RawFd,
}

impl Budget {
    /// Raises the process's limit, and takes all of it but a reserve.
    pub fn new() -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = if soft >= WANTED {
            soft
        } else if setrlimit(Resource::RLIMIT_NOFILE, WANTED, hard.max(WANTED)).is_ok() {
            WANTED
        } else {
            setrlimit(Resource::RLIMIT_NOFILE, hard.min(WANTED), hard)?;
            hard.min(WANTED)
        };
        Ok(Self::below(limit.saturating_sub(RESERVED).max(limit / 2)))
    }

    /// All descriptors below `limit`.
    pub fn below(limit: u64) -> Self {
        Self { limit: RawFd::try_from(limit).unwrap_or(RawFd::MAX) }
    }

    /// Whether there is one more. The kernel gives out the lowest free number, so that this number
    /// says how many are in use at least; `any` is a descriptor to ask with.
    ///
    /// # Errors
    /// `ENFILE`, as the guest's kernel says when it has too many files open.
    pub fn check(&self, any: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: no memory is involved.
        let lowest = unsafe { libc::fcntl(any.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if lowest < 0 {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        // SAFETY: the descriptor is new, and nobody else's.
        drop(unsafe { OwnedFd::from_raw_fd(lowest) });
        if lowest < self.limit {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::ENFILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_beyond_the_limit_is_refused_and_nothing_is_kept() {
        let file = File::open("/").unwrap();
        Budget::below(1 << 20).check(file.as_fd()).unwrap();
        let error = Budget::below(0).check(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENFILE));
    }
}
