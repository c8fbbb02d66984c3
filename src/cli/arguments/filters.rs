//! `--filter KEY=VALUE`, and points in time, in docker's forms.

use jiff::{SignedDuration, Timestamp};

/// Filters of a list: values of one key are alternatives, keys are all to be met.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    /// Reads `KEY=VALUE` of these keys.
    ///
    /// # Errors
    ///
    /// What is wrong with one.
    pub fn parse(texts: &[String], keys: &[&str]) -> Result<Self, String> {
        let filter = |text: &String| {
            let Some((key, value)) = text.split_once('=') else {
                return Err(format!("invalid filter {text:?}: it is not KEY=VALUE"));
            };
            if !keys.contains(&key) {
                let keys = keys.join(", ");
                return Err(format!("invalid filter {key:?}: there are {keys}"));
            }
            Ok((key.to_owned(), value.to_owned()))
        };
        Ok(Self(texts.iter().map(filter).collect::<Result<_, _>>()?))
    }

    /// Whether there is one of this key.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// Whether all of the key's values meet the condition: labels.
    pub fn each(&self, key: &str, meets: impl Fn(&str) -> bool) -> bool {
        self.0.iter().all(|(name, value)| name != key || meets(value))
    }

    /// Whether one of the key's values meets the condition, or there is none.
    pub fn all(&self, key: &str, meets: impl Fn(&str) -> bool) -> bool {
        !self.has(key) || self.0.iter().any(|(name, value)| name == key && meets(value))
    }
}

/// A point in time: a date with its time (RFC 3339), seconds of Unix time, or how long ago it was
/// (`10m`, `1h30m`).
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return SignedDuration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|since| Timestamp::from_duration(since).ok())
            .ok_or_else(|| format!("{text:?} is beyond all times"));
    }
    let ago: SignedDuration = text.parse().map_err(|_| {
        format!("{text:?} is neither a time (2026-01-02T15:04:05Z) nor a length (10m)")
    })?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_of_a_key_are_alternatives() {
        let texts = ["event=die", "event=start", "image=i"].map(str::to_owned);
        let filters = Filters::parse(&texts, &["event", "image"]).unwrap();
        assert!(filters.all("event", |wanted| wanted == "start"));
        assert!(!filters.all("event", |wanted| wanted == "stop"));
        assert!(filters.all("name", |_| false));
        assert!(Filters::parse(&["x=1".into()], &["event"]).unwrap_err().contains("event"));
        assert!(Filters::parse(&["event".into()], &["event"]).is_err());
    }

    #[test]
    fn moments_have_dockers_forms() {
        assert_eq!(moment("1970-01-01T00:00:10Z").unwrap().as_second(), 10);
        assert_eq!(moment("1700000000.5").unwrap().as_millisecond(), 1_700_000_000_500);
        let then = moment("1h30m").unwrap();
        let ago = Timestamp::now().duration_since(then);
        assert!((5399..5410).contains(&ago.as_secs()), "{ago:?}");
        for wrong in ["", "yesterday", "1e300", "nan"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_moment_or_refused(text in ".{0,30}") {
            let _ = moment(&text);
        }
    }
}
