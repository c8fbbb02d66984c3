//! When connections have waited long enough: one timer for all.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use super::packet::Ports;

/// The deadlines, the first of which the timer is set to.
///
/// The timer is never read: it is watched edge-triggered, and every expiry is an edge.
#[derive(Debug)]
pub struct Deadlines {
    timer: Timer,
    waiting: BTreeSet<(Instant, Ports)>,
    armed: Option<Instant>,
}

/// [`TimerFd`] does not say what it is.
struct Timer(TimerFd);

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Timer").field(&self.0.as_raw_fd()).finish()
    }
}

impl Deadlines {
    /// None yet.
    pub fn new() -> io::Result<Self> {
        let timer = Timer(TimerFd::new()?);
        Ok(Self { timer, waiting: BTreeSet::new(), armed: None })
    }

    /// The connection waits until `at`.
    pub fn add(&mut self, at: Instant, ports: Ports) -> io::Result<()> {
        self.waiting.insert((at, ports));
        self.arm()
    }

    /// The connection no longer waits. The timer may still expire, for nobody.
    pub fn remove(&mut self, at: Instant, ports: Ports) {
        self.waiting.remove(&(at, ports));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Takes out one connection whose time is up at `now`.
    pub fn expired(&mut self, now: Instant) -> Option<Ports> {
        let (at, ports) = *self.waiting.first()?;
        if at > now {
            return None;
        }
        self.waiting.pop_first();
        Some(ports)
    }

    /// The timer has expired, and all that [`Deadlines::expired`] gave is dealt with.
    pub fn rearm(&mut self) -> io::Result<()> {
        self.armed = None;
        self.arm()
    }

    fn arm(&mut self) -> io::Result<()> {
        let Some((first, _)) = self.waiting.first() else {
            return Ok(());
        };
        if self.armed.is_some_and(|armed| armed <= *first) {
            return Ok(());
        }
        // 0 would stop the timer.
        let left = first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        self.timer.0.reset(left, None)?;
        self.armed = Some(*first);
        Ok(())
    }
}

impl AsRawFd for Deadlines {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    const PORTS: Ports = Ports { host: 1, guest: 2 };

    fn expires(deadlines: &Deadlines) -> bool {
        // SAFETY: the descriptor is open for as long as `deadlines` is.
        let fd = unsafe { BorrowedFd::borrow_raw(deadlines.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(10_000u16)).unwrap() == 1
    }

    #[test]
    fn the_first_comes_first() {
        let mut deadlines = Deadlines::new().unwrap();
        let now = Instant::now();
        let later = now + Duration::from_secs(1000);
        deadlines.add(later, Ports { host: 3, guest: 4 }).unwrap();
        deadlines.add(now, PORTS).unwrap();
        assert!(expires(&deadlines));
        assert_eq!(deadlines.expired(now), Some(PORTS));
        assert_eq!(deadlines.expired(now), None);
        deadlines.rearm().unwrap();
        assert_eq!(deadlines.armed, Some(later));
    }

    #[test]
    fn what_is_removed_does_not_expire() {
        let mut deadlines = Deadlines::new().unwrap();
        let now = Instant::now();
        deadlines.add(now, PORTS).unwrap();
        deadlines.remove(now, PORTS);
        assert_eq!(deadlines.expired(now), None);
    }
}
