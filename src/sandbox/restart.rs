//! Restart policies: whether and when an ended container is started again. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Pause before the first restart; each further one is twice as long (docker's).
const FIRST: Duration = Duration::from_millis(100);

/// Longest pause (docker's).
const LONGEST: Duration = Duration::from_secs(60);

/// A container that ran this long has started well: the next pause is the first again (docker's).
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// When an ended container is started again, in the words of `docker run --restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Where its exit code is not 0; at most so often, where a number is given.
    OnFailure(Option<u32>),
    /// Whenever it ends, but by a user's will.
    Always,
    /// The same; after a reboot only what was not stopped.
    UnlessStopped,
}

/// A policy that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no restart policy: no, on-failure[:MAX], always or unless-stopped")]
pub struct UnknownPolicy(String);

impl RestartPolicy {
    /// Its word, without a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure(_) => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// Whether a container is started again that has ended with this code, after so many restarts.
    fn wants(self, code: i32, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => code != 0 && most.is_none_or(|most| restarts < most),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.to_owned());
        Ok(match text.split_once(':') {
            None => match text {
                "" | "no" => Self::No,
                "on-failure" => Self::OnFailure(None),
                "always" => Self::Always,
                "unless-stopped" => Self::UnlessStopped,
                _ => return Err(unknown()),
            },
            Some(("on-failure", most)) => match most.parse().map_err(|_| unknown())? {
                // docker's: no bound.
                0 => Self::OnFailure(None),
                most => Self::OnFailure(Some(most)),
            },
            Some(_) => return Err(unknown()),
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnFailure(Some(most)) => write!(f, "on-failure:{most}"),
            other => f.write_str(other.name()),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = UnknownPolicy;

    fn try_from(text: String) -> Result<Self, UnknownPolicy> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

/// A container's restarts so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts {
    /// How many there were.
    pub count: u32,
    pause: Duration,
}

impl Restarts {
    /// The container has ended with this code after running so long: after which pause it is to be started
    /// again, if at all.
    pub fn next(&mut self, policy: RestartPolicy, code: i32, ran: Duration) -> Option<Duration> {
        if !policy.wants(code, self.count) {
            return None;
        }
        let again = self.pause.is_zero() || ran >= LONG_ENOUGH;
        self.pause = if again { FIRST } else { (self.pause * 2).min(LONGEST) };
        self.count = self.count.saturating_add(1);
        Some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BRIEF: Duration = Duration::from_secs(1);

    #[test]
    fn policies_are_dockers_words() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("on-failure:0".parse(), Ok(RestartPolicy::OnFailure(None)));
        for wrong in ["never", "on-failure:", "on-failure:-1", "always:3", "on-failure:x"] {
            assert!(wrong.parse::<RestartPolicy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_failures_are_started_again_and_only_so_often() {
        let mut restarts = Restarts::default();
        let policy = RestartPolicy::OnFailure(Some(2));
        assert_eq!(restarts.next(policy, 0, BRIEF), None);
        assert!(restarts.next(policy, 1, BRIEF).is_some());
        assert!(restarts.next(policy, 1, BRIEF).is_some());
        assert_eq!(restarts.next(policy, 1, BRIEF), None);
        assert_eq!(restarts.count, 2);
        assert_eq!(Restarts::default().next(RestartPolicy::No, 1, BRIEF), None);
    }

    #[test]
    fn pauses_double_and_begin_anew_after_a_good_start() {
        let mut restarts = Restarts::default();
        let pauses: Vec<u128> = (0..4)
            .map(|_| restarts.next(RestartPolicy::Always, 0, BRIEF).unwrap().as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800]);
        assert_eq!(restarts.next(RestartPolicy::Always, 0, LONG_ENOUGH), Some(FIRST));
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(
            ends in prop::collection::vec((any::<i32>(), 0u64..20), 0..50)
        ) {
            let mut restarts = Restarts::default();
            for (code, seconds) in ends {
                let ran = Duration::from_secs(seconds);
                let pause = restarts.next(RestartPolicy::Always, code, ran).unwrap();
                prop_assert!((FIRST..=LONGEST).contains(&pause));
            }
        }

        #[test]
        fn any_text_is_a_policy_or_refused(text in ".{0,20}") {
            if let Ok(policy) = text.parse::<RestartPolicy>() {
                prop_assert_eq!(policy.to_string().parse(), Ok(policy));
            }
        }
    }
}
