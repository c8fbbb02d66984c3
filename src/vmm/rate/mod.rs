//! How much a device may do in a time: token buckets, in the words of Firecracker's API.
//!
//! * [`RateLimiter`], [`TokenBucket`]: what is configured
//! * [`bucket`]: one bucket, to which time is told
//! * [`limiter`]: both buckets of a direction, and the timer that wakes who waits for them

pub mod bucket;
pub mod limiter;

use serde::{Deserialize, Serialize};

pub use limiter::{Limiter, Timer};

/// A bucket that is refilled evenly, and is full at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// What it holds, and what comes in each [`TokenBucket::refill_time`]; 0 for no limit.
    pub size: u64,
    /// What can be taken once beside that.
    #[serde(default)]
    pub one_time_burst: u64,
    /// Milliseconds in which an empty bucket fills; 0 for no limit.
    pub refill_time: u64,
}

impl TokenBucket {
    /// So many in a second, with as much at once as comes in a tenth of it; a few are all there at once.
    pub fn per_second(rate: u64) -> Self {
        const PARTS: u64 = 10;
        let (size, refill_time) = match rate {
            // A tenth would be rounded too much.
            0..1000 if !rate.is_multiple_of(PARTS) => (rate, 1000),
            _ => (rate.div_ceil(PARTS), 1000 / PARTS),
        };
        Self { size, one_time_burst: 0, refill_time }
    }

    /// Whether it limits anything.
    pub fn limits(&self) -> bool {
        self.size > 0 && self.refill_time > 0
    }
}

/// Limits of one direction of a device. The default limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimiter {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Frames, or requests.
    pub ops: Option<TokenBucket>,
}

impl RateLimiter {
    /// No limits.
    pub const NONE: Self = Self { bandwidth: None, ops: None };

    /// Whether it limits anything.
    pub fn limits(&self) -> bool {
        self.bandwidth.is_some_and(|bucket| bucket.limits())
            || self.ops.is_some_and(|bucket| bucket.limits())
    }
}
