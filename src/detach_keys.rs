//! The keys that let go of a program's terminal and leave the program running: docker's `--detach-keys`.

use std::str::FromStr;

/// Most keys of a sequence.
const MOST: usize = 32;

/// What `ctrl-` may be said of, by the byte that the key gives.
const CONTROL: &[u8; 32] = b"@abcdefghijklmnopqrstuvwxyz[\\]^_";

/// A sequence of keys, as the bytes that a terminal gives for them; there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

/// Why a text names no sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DetachKeysError {
    /// not a key that a terminal gives one byte for
    #[error("{0:?} is no key: one character, DEL, or ctrl- and one of a-z @ [ \\ ] ^ _")]
    Unknown(String),
    /// more than anybody types
    #[error("more than {MOST} keys")]
    TooMany,
}

impl Default for DetachKeys {
    /// `ctrl-p,ctrl-q`
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    /// Keys with commas between them; nothing at all is the default, as with docker.
    fn from_str(text: &str) -> Result<Self, DetachKeysError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let keys = text.split(',').take(MOST + 1).map(key).collect::<Result<Vec<u8>, _>>()?;
        if keys.len() > MOST { Err(DetachKeysError::TooMany) } else { Ok(Self(keys)) }
    }
}

fn key(name: &str) -> Result<u8, DetachKeysError> {
    let found = match name.as_bytes() {
        [byte] => Some(*byte),
        b"DEL" => Some(0x7f),
        [b'c', b't', b'r', b'l', b'-', of] => {
            CONTROL.iter().position(|known| known == of).and_then(|at| u8::try_from(at).ok())
        }
        _ => None,
    };
    found.ok_or_else(|| DetachKeysError::Unknown(name.to_owned()))
}

/// Finds the keys in what is typed. What may be their beginning is held back until it is known to be none.
#[derive(Debug)]
pub struct Matcher {
    keys: Vec<u8>,
    /// How many of the keys were typed last.
    held: usize,
}

impl Matcher {
    /// One that waits for these.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, held: 0 }
    }

    /// Takes what was typed and adds to `on` what of it is to be passed on: true when the keys were typed
    /// to the last. What was typed behind them is nobody's.
    pub fn take(&mut self, typed: &[u8], on: &mut Vec<u8>) -> bool {
        for &byte in typed {
            let before = self.held;
            while self.held > 0 && self.keys.get(self.held) != Some(&byte) {
                self.held = self.repeated();
            }
            if self.keys.get(self.held) == Some(&byte) {
                self.held += 1;
            }
            // What was held back, and this byte, but for what is held back now.
            let free = before + 1 - self.held;
            on.extend(self.keys.iter().take(before).chain([&byte]).take(free));
            if self.held == self.keys.len() {
                self.held = 0;
                return true;
            }
        }
        false
    }

    /// What is held back where nothing more is typed.
    pub fn rest(&mut self) -> Vec<u8> {
        self.keys.iter().take(std::mem::take(&mut self.held)).copied().collect()
    }

    /// Of the keys that are held back: how many of the last are the first, too. Fewer than all.
    fn repeated(&self) -> usize {
        let held = self.keys.get(..self.held).unwrap_or_default();
        (1..self.held)
            .rev()
            .find(|&count| held.starts_with(&held[self.held - count..]))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_in_dockers_words() {
        let bytes = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(bytes("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(bytes(""), Ok(vec![16, 17]));
        assert_eq!(bytes("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL"), {
            Ok(vec![b'a', 0, 27, 28, 29, 30, 31, 127])
        });
        for wrong in ["ctrl-", "ctrl-A", "ctrl-pp", "ctrl-`", "ab", "é", "a,", ",", "ctrl-1"] {
            assert!(matches!(bytes(wrong), Err(DetachKeysError::Unknown(_))), "{wrong}");
        }
        assert_eq!(bytes(&["x"; MOST + 1].join(",")), Err(DetachKeysError::TooMany));
        assert!(bytes(&["x"; MOST].join(",")).is_ok());
    }

    /// What a matcher makes of pieces: what it passes on, and whether it found the keys.
    fn typed(keys: &[u8], pieces: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut matcher = Matcher::new(DetachKeys(keys.to_vec()));
        let mut on = Vec::new();
        if pieces.iter().any(|piece| matcher.take(piece, &mut on)) {
            return (on, true);
        }
        on.extend(matcher.rest());
        (on, false)
    }

    #[test]
    fn a_beginning_that_goes_on_otherwise_is_passed_on() {
        assert_eq!(typed(b"aab", &[b"aaab".to_vec()]), (b"a".to_vec(), true));
        assert_eq!(typed(b"aab", &[b"aa".to_vec()]), (b"aa".to_vec(), false));
        let split = [b"x\x10".to_vec(), b"y\x10".to_vec(), b"\x11z".to_vec()];
        assert_eq!(typed(b"\x10\x11", &split), (b"x\x10y".to_vec(), true));
    }

    #[test]
    fn what_is_held_back_is_no_more_than_a_beginning() {
        let mut matcher = Matcher::new(DetachKeys::default());
        let mut on = Vec::new();
        assert!(!matcher.take(b"ab\x10", &mut on));
        assert_eq!(on, b"ab");
        assert!(!matcher.take(b"\x10", &mut on));
        assert_eq!(on, b"ab\x10");
    }

    proptest! {
        /// Few different bytes: the keys come about often, and their beginnings more often.
        #[test]
        fn the_keys_are_found_wherever_reads_are_split(
            keys in prop::collection::vec(0u8..3, 1..6),
            pieces in prop::collection::vec(prop::collection::vec(0u8..3, 0..5), 0..24),
        ) {
            let all = pieces.concat();
            let at = all.windows(keys.len()).position(|window| window == keys);
            let expected = match at {
                Some(at) => (all[..at].to_vec(), true),
                None => (all, false),
            };
            prop_assert_eq!(typed(&keys, &pieces), expected);
        }

        #[test]
        fn any_text_is_keys_or_an_error(text in ".{0,80}") {
            let _ = text.parse::<DetachKeys>();
        }
    }
}
