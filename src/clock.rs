//! The clock that all processes of the host share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Now, in microseconds of `CLOCK_MONOTONIC`.
pub fn now_us() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return 0;
    };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}

/// A moment of `CLOCK_MONOTONIC` in microseconds.
pub fn micros(moment: Duration) -> u64 {
    u64::try_from(moment.as_micros()).unwrap_or(u64::MAX)
}
