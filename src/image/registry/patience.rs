//! A registry that is asked too often says when it wants to be asked again (429, `Retry-After`): it is waited
//! for, within a bound.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};

/// How often an answer is waited for.
const TIMES: u32 = 5;

/// How long in all, for one request.
const LONGEST: Duration = Duration::from_secs(300);

/// Who hears that a registry, by its name, is waited for.
pub type Told = fn(&str, Duration);

/// What is left of the patience with one request.
#[derive(Debug)]
pub struct Patience {
    times: u32,
    time: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { times: TIMES, time: LONGEST }
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be asked again after so long.
    Wait(Duration),
    /// It wants to be asked again after so long, which is too long, or was said too often.
    TooLong(Duration),
    /// It is an answer like any other.
    Answer,
}

impl Patience {
    /// What an answer means; who is told to wait is to do so.
    pub fn judge(&mut self, response: &Response, now: Timestamp) -> Verdict {
        if response.status() != StatusCode::TOO_MANY_REQUESTS {
            return Verdict::Answer;
        }
        let said = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        match said.and_then(|said| retry_after(said, now)) {
            Some(wanted) => self.spend(wanted),
            None => Verdict::Answer,
        }
    }

    fn spend(&mut self, wanted: Duration) -> Verdict {
        let Some((times, time)) = self.times.checked_sub(1).zip(self.time.checked_sub(wanted))
        else {
            return Verdict::TooLong(wanted);
        };
        *self = Self { times, time };
        Verdict::Wait(wanted)
    }
}

/// Seconds, or a date; what is past is now.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let then = DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::try_from(then.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_a_date() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            (" 17 ", Some(17)),
            ("18446744073709551615", Some(u64::MAX)),
            ("Fri, 02 Jan 2026 03:04:35 GMT", Some(30)),
            ("Fri, 02 Jan 2026 03:04:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn patience_ends() {
        let second = Duration::from_secs(1);
        let mut often = Patience::default();
        assert!((0..TIMES).all(|_| often.spend(second) == Verdict::Wait(second)));
        assert_eq!(often.spend(second), Verdict::TooLong(second));
        let mut long = Patience::default();
        assert_eq!(long.spend(LONGEST), Verdict::Wait(LONGEST));
        assert_eq!(long.spend(second), Verdict::TooLong(second));
        let forever = Duration::from_secs(u64::MAX);
        assert_eq!(Patience::default().spend(forever), Verdict::TooLong(forever));
    }
}
