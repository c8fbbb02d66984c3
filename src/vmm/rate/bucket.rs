//! One token bucket. It knows no clock: each call is told the time.
//!
//! What is done is paid for afterwards: an action is let through while there is a token in the bucket,
//! whatever it costs, and what it costs beyond that is a debt that has to be refilled first. So
//! frames and requests that are longer than the bucket need no rule of their own, the length of a frame
//! need not be known before it is read, and the rate over time is the one that was asked for.

use std::time::Duration;

use super::TokenBucket;

const NANOS_PER_MILLI: u128 = 1_000_000;

/// Who has found the bucket empty is not woken for the first token, but for as much as comes in this
/// time: a wake-up is to be worth it.
const WORTH_WAKING: Duration = Duration::from_millis(4);

/// A bucket at work.
#[derive(Debug, Clone)]
pub struct Bucket {
    config: TokenBucket,
    /// Tokens, in parts of which one token has [`Bucket::unit`]: nothing is lost to rounding. Never above
    /// a full bucket.
    level: i128,
    burst: u64,
    /// When `level` was right.
    at: Duration,
}

impl Bucket {
    /// A full one, or none where the configuration limits nothing.
    pub fn new(config: TokenBucket, now: Duration) -> Option<Self> {
        config.limits().then(|| {
            let mut bucket = Self { config, level: 0, burst: config.one_time_burst, at: now };
            bucket.level = bucket.full();
            bucket
        })
    }

    /// Parts of a token: one for each nanosecond of the refill time, so that a nanosecond brings as many
    /// parts as the bucket has tokens.
    fn unit(&self) -> i128 {
        (u128::from(self.config.refill_time) * NANOS_PER_MILLI).cast_signed()
    }

    fn full(&self) -> i128 {
        // Beyond what the type holds are millions of years, or of exabytes: nobody sees these limited to it.
        i128::from(self.config.size).saturating_mul(self.unit())
    }

    /// How long to wait before anything is let through, at `now`; none if something is now.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.refill(now);
        if self.burst > 0 || self.level >= self.unit() {
            return None;
        }
        let per_nano = i128::from(self.config.size);
        let worth = i128::try_from(WORTH_WAKING.as_nanos()).unwrap_or(i128::MAX);
        // No more than half a bucket, or what comes while the waking takes its time is lost.
        let target = per_nano.saturating_mul(worth).min(self.full() / 2).max(self.unit());
        let missing = target.saturating_sub(self.level);
        // Rounded up.
        let nanos = missing.saturating_add(per_nano - 1) / per_nano.max(1);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Pays for what was let through.
    pub fn charge(&mut self, tokens: u64) {
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        let cost = i128::from(tokens - from_burst).saturating_mul(self.unit());
        self.level = self.level.saturating_sub(cost);
    }

    fn refill(&mut self, now: Duration) {
        // A clock that stands still or goes back brings nothing.
        let elapsed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let nanos = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let came = nanos.saturating_mul(i128::from(self.config.size));
        self.level = self.level.saturating_add(came).min(self.full());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket(size: u64, burst: u64, refill_ms: u64) -> Bucket {
        let config = TokenBucket { size, one_time_burst: burst, refill_time: refill_ms };
        Bucket::new(config, Duration::ZERO).unwrap()
    }

    #[test]
    fn no_size_or_no_time_is_no_limit() {
        for (size, refill_time) in [(0, 100), (100, 0), (0, 0)] {
            let config = TokenBucket { size, one_time_burst: 7, refill_time };
            assert!(Bucket::new(config, Duration::ZERO).is_none());
        }
    }

    #[test]
    fn a_full_bucket_and_the_burst_are_there_at_once_and_then_the_rate() {
        let mut bucket = bucket(1000, 500, 1000);
        bucket.charge(1400);
        assert_eq!(bucket.wait(Duration::ZERO), None, "100 are left");
        bucket.charge(100);
        // 1 token in a millisecond; 4 of them are worth waking for, and one is enough.
        assert_eq!(bucket.wait(Duration::ZERO), Some(Duration::from_millis(4)));
        assert!(bucket.wait(Duration::from_micros(999)).is_some());
        assert_eq!(bucket.wait(Duration::from_millis(1)), None);
        bucket.charge(101);
        let debt = bucket.wait(Duration::from_millis(1));
        assert_eq!(debt, Some(Duration::from_millis(104)), "a debt is paid first");
        // The burst does not come back, and no more than a bucket gathers.
        assert_eq!(bucket.wait(Duration::from_secs(1000)), None);
        bucket.charge(1000);
        assert!(bucket.wait(Duration::from_secs(1000)).is_some());
    }

    #[test]
    fn time_that_goes_back_brings_nothing() {
        let mut bucket = bucket(10, 0, 10);
        bucket.charge(10);
        assert!(bucket.wait(Duration::from_secs(0)).is_some());
        assert!(bucket.wait(Duration::from_secs(5)).is_none());
        bucket.charge(10);
        assert!(bucket.wait(Duration::from_secs(4)).is_some());
        assert!(bucket.wait(Duration::from_secs(5)).is_some(), "that time was counted already");
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_whatever_is_asked_for(
            size in 1u64..1 << 40,
            refill_ms in 1u64..100_000,
            burst in 0u64..1 << 20,
            steps in prop::collection::vec((0u64..1 << 30, 1u64..1 << 22), 1..200),
        ) {
            let mut bucket = bucket(size, burst, refill_ms);
            let (mut now, mut taken, mut last) = (Duration::ZERO, 0u128, 0u64);
            for (pause, tokens) in steps {
                now += Duration::from_nanos(pause);
                if let Some(wait) = bucket.wait(now) {
                    prop_assert!(!wait.is_zero());
                    now += wait;
                    prop_assert_eq!(bucket.wait(now), None, "who has waited is let through");
                }
                bucket.charge(tokens);
                (taken, last) = (taken + u128::from(tokens), tokens);
            }
            // All but the last, which may be a debt, has come by now.
            let came = u128::from(size) * now.as_nanos() / (u128::from(refill_ms) * NANOS_PER_MILLI);
            let most = u128::from(size) + u128::from(burst) + came + u128::from(last) + 1;
            prop_assert!(taken <= most, "{} of {}", taken, most);
        }

        #[test]
        fn no_numbers_are_too_large(
            size in any::<u64>(),
            burst in any::<u64>(),
            refill_time in any::<u64>(),
            steps in prop::collection::vec((any::<u64>(), any::<u64>()), 0..50),
        ) {
            let config = TokenBucket { size, one_time_burst: burst, refill_time };
            if let Some(mut bucket) = Bucket::new(config, Duration::ZERO) {
                let mut now = Duration::ZERO;
                for (pause, tokens) in steps {
                    now = now.saturating_add(Duration::from_nanos(pause));
                    let _ = bucket.wait(now);
                    bucket.charge(tokens);
                }
            }
        }
    }
}
