//! The way out of a guest's console for a person at a raw terminal: Ctrl-A, then x. Ctrl-A twice
//! is Ctrl-A to the guest.

const PREFIX: u8 = 0x01;

/// What to do with typed bytes.
#[derive(Debug, Default)]
pub struct Escape {
    prefixed: bool,
}

impl Escape {
    /// Copies to `guest` what is meant for it; true if the person wants out, the rest is dropped.
    pub fn filter(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> bool {
        for byte in typed {
            match (self.prefixed, *byte) {
                (false, PREFIX) => self.prefixed = true,
                (true, b'x') => return true,
                (true, PREFIX) => {
                    self.prefixed = false;
                    guest.push(PREFIX);
                }
                (true, other) => {
                    self.prefixed = false;
                    guest.extend([PREFIX, other]);
                }
                (false, other) => guest.push(other),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut escape, mut guest) = (Escape::default(), Vec::new());
        let out = pieces.iter().any(|typed| escape.filter(typed, &mut guest));
        (guest, out)
    }

    #[test]
    fn only_the_sequence_leads_out() {
        assert_eq!(run(&[b"abx"]), (b"abx".to_vec(), false));
        assert_eq!(run(&[b"a\x01", b"xb"]), (b"a".to_vec(), true));
        assert_eq!(run(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
        assert_eq!(run(&[b"\x01q"]), (b"\x01q".to_vec(), false));
    }
}
