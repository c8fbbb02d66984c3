//! The buckets of one direction of a device, and the timer of those who wait.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use vmm_sys_util::timerfd::TimerFd;

use super::RateLimiter;
use super::bucket::Bucket;

/// The limits of one direction.
#[derive(Debug, Default)]
pub struct Limiter {
    config: RateLimiter,
    bandwidth: Option<Bucket>,
    ops: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    pub fn new(config: RateLimiter) -> Self {
        let now = if config.limits() { now() } else { Duration::ZERO };
        let bucket = |config| Bucket::new(config, now);
        Self {
            config,
            bandwidth: config.bandwidth.and_then(bucket),
            ops: config.ops.and_then(bucket),
        }
    }

    /// What it was made of.
    pub fn config(&self) -> RateLimiter {
        self.config
    }

    /// How long to wait before anything more is done; none if it can be done now. Without limits no
    /// clock is asked.
    pub fn wait(&mut self) -> Option<Duration> {
        if self.bandwidth.is_none() && self.ops.is_none() {
            return None;
        }
        let now = now();
        let wait = |bucket: &mut Option<Bucket>| bucket.as_mut()?.wait(now);
        wait(&mut self.bandwidth).max(wait(&mut self.ops))
    }

    /// Pays for one frame or request of so many bytes, which is done.
    pub fn charge(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bandwidth {
            bucket.charge(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        if let Some(bucket) = &mut self.ops {
            bucket.charge(1);
        }
    }
}

/// Wakes a device's queues that wait for tokens.
///
/// It is never read: it is watched edge-triggered, and every expiry is an edge.
pub struct Timer {
    timer: TimerFd,
    /// When it expires, if it is set.
    at: Option<Duration>,
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Timer").field(&self.timer.as_raw_fd()).finish()
    }
}

impl Timer {
    /// One that is not set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: TimerFd::new()?, at: None })
    }

    /// It has expired.
    pub fn expired(&mut self) {
        self.at = None;
    }

    /// Expires after `wait` at the latest: earlier if others wait for less.
    pub fn wake_in(&mut self, wait: Duration) {
        let at = now().saturating_add(wait);
        if self.at.is_some_and(|earlier| earlier <= at) {
            return;
        }
        self.at = Some(at);
        // 0 would stop it; and its seconds are a number with a sign.
        let wait = wait.clamp(Duration::from_nanos(1), Duration::from_secs(1 << 40));
        if let Err(error) = self.timer.reset(wait, None) {
            log::error!("a queue that waits for its rate limit is not woken: {error}");
        }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

/// Time since some moment.
fn now() -> Duration {
    // Fails for no clock that there is.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::TokenBucket;
    use super::*;

    #[test]
    fn the_tighter_limit_holds() {
        let slow = TokenBucket { size: 1, one_time_burst: 0, refill_time: 1_000_000 };
        let mut limiter = Limiter::new(RateLimiter { bandwidth: None, ops: Some(slow) });
        assert_eq!(limiter.wait(), None);
        limiter.charge(1 << 40);
        assert!(limiter.wait().unwrap() > Duration::from_secs(100));
        let mut limiter = Limiter::new(RateLimiter { bandwidth: Some(slow), ops: None });
        limiter.charge(0);
        assert_eq!(limiter.wait(), None, "bytes alone count");
        limiter.charge(1);
        assert!(limiter.wait().is_some());
        let mut limiter = Limiter::default();
        limiter.charge(usize::MAX);
        assert_eq!(limiter.wait(), None);
    }
}
