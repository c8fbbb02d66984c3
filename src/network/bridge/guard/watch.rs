//! When a keeper looks whether its rules are there. Pure.
//!
//! | state | heard | then |
//! | --- | --- | --- |
//! | nothing is due | nothing that matters, such as a change of ampoule's own | nothing |
//! | any | a table of ampoule's went, or more than there was room for | looks |
//! | a look has failed | nothing, or nothing that matters | looks when its time has come, ever later |

use std::time::{Duration, Instant};

use crate::network::nft::Heard;

/// After the first look that failed, and at most.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);

/// What a keeper knows of its rules.
#[derive(Debug, Default)]
pub struct Watch {
    /// When it is to look.
    due: Option<Instant>,
    /// How often in a row it looked in vain.
    failures: u32,
}

impl Watch {
    /// Whether to look now, after all that was heard at once.
    pub fn hear(&mut self, heard: Heard, now: Instant) -> bool {
        if heard != Heard::Nothing {
            self.due = Some(now);
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// It was looked.
    pub fn looked(&mut self, all_is_there: bool, now: Instant) {
        if all_is_there {
            *self = Self::default();
            return;
        }
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.due = now.checked_add(pause);
    }

    /// How long nothing is to be done if nothing is heard; for ever where it is none.
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_wakes_nobody() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        assert!(!watch.hear(Heard::Nothing, now));
        assert_eq!(watch.patience(now), None);
    }

    #[test]
    fn a_table_that_went_and_an_overrun_are_looked_after_once() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        for heard in [Heard::Gone, Heard::Overrun] {
            assert!(watch.hear(heard, now));
            watch.looked(true, now);
            assert!(!watch.hear(Heard::Nothing, now));
            assert_eq!(watch.patience(now), None);
        }
    }

    #[test]
    fn who_looked_in_vain_looks_again_and_ever_later() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        assert!(watch.hear(Heard::Gone, now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
            watch.looked(false, now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(watch.patience(now), Some(pause));
            now += pause / 2;
            assert!(!watch.hear(Heard::Nothing, now), "before its time");
            now += pause / 2;
            assert!(watch.hear(Heard::Nothing, now));
        }
        watch.looked(false, now);
        // What is heard does not wait for that.
        assert!(watch.hear(Heard::Gone, now));
        watch.looked(true, now);
        assert_eq!(watch.patience(now), None);
    }
}
