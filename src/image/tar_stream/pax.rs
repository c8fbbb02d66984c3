//! PAX extended headers (POSIX pax, "pax Extended Header").

use std::collections::BTreeMap;

use super::sparse::SparseRecords;

/// Records of one extended header that say something about a file.
#[derive(Debug, Default)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    /// values by full names: an archive may have tens of thousands in one header
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: SparseRecords,
}

/// A record that breaks the grammar, or a value that is not of its kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Records {
    /// Reads the body of an extended header.
    pub fn parse(mut body: &[u8]) -> Result<Self, Malformed> {
        let mut records = Self::default();
        // Some writers pad the body with NULs.
        while !body.is_empty() && body.first() != Some(&0) {
            let record = Record::first(body)?;
            records.take(record.key, record.value)?;
            body = record.rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        // A later record overrides an earlier one; an empty value takes it back.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = (!value.is_empty()).then(|| time(value)).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(name, value)?;
                }
            }
        }
        Ok(())
    }
}

/// One record, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first record of `body`, `"%d %s=%s\n"`. The length in front counts the whole record,
    /// so that values may hold newlines.
    fn first(body: &'a [u8]) -> Result<Self, Malformed> {
        let space = body.iter().take(20).position(|byte| *byte == b' ').ok_or(Malformed)?;
        let length = body.get(..space).and_then(|digits| number(digits).ok()?);
        let length = usize::try_from(length.ok_or(Malformed)?).map_err(|_| Malformed)?;
        let rest = body.get(length..).ok_or(Malformed)?;
        let record = body.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or(Malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(Malformed)?;
        let (key, value) = record.split_at(equals);
        Ok(Self { key, value: value.get(1..).unwrap_or_default(), rest })
    }
}

/// A decimal number, or nothing.
pub fn number(text: &[u8]) -> Result<Option<u64>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).map(Some).ok_or(Malformed)
}

/// Seconds and nanoseconds of a decimal fraction of seconds, rounded towards the past.
fn time(text: &[u8]) -> Result<(i64, u32), Malformed> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = number(parts.next().unwrap_or_default())?.ok_or(Malformed)?;
    let whole = i64::try_from(whole).map_err(|_| Malformed)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, nanoseconds) => (-whole - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_may_hold_newlines_and_equal_signs() {
        let records =
            Records::parse(b"30 SCHILY.xattr.user.a=b\n=\n\0c\n12 uid=1000\n12 path=a=b\n");
        let records = records.unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"b\n=\n\0c".to_vec())].into());
        assert_eq!(records.uid, Some(1000));
        assert_eq!(records.path.as_deref(), Some(&b"a=b"[..]));
    }

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("1234567890.123456789", (1_234_567_890, 123_456_789)),
            ("1.1234567899", (1, 123_456_789)),
            ("-1", (-1, 0)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.5", (-1, 500_000_000)),
        ] {
            assert_eq!(time(text.as_bytes()), Ok(expected), "{text}");
        }
        for text in ["", "-", ".5", "1.x", "--1", "99999999999999999999", "+1"] {
            assert_eq!(time(text.as_bytes()), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for body in ["1", "5 a=b", "99 a=b\n", "0 a=b\n", "6 ab\n", "x a=b\n", " a=b\n", "7 a=b\n"]
        {
            assert_eq!(Records::parse(body.as_bytes()).err(), Some(Malformed), "{body:?}");
        }
        assert!(Records::parse(b"10 size=-1\n").is_err());
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::parse(&body);
        }
    }
}
