//! The Internet checksum (RFC 1071), and what a guest leaves undone of it.

/// What a guest asks for does not fit its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the checksum is beyond the frame")]
pub struct Beyond;

/// A sum of 16-bit words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes, of which the first is the upper half of a word. So is that of whatever is added next:
    /// an odd byte at the end is followed by a zero.
    #[must_use]
    pub fn add(self, bytes: &[u8]) -> Self {
        // Words of 4 bytes, which are two of 2 each: the sum modulo 0xffff is the same. A frame of 2^16
        // bytes stays far below 2^64.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_be_bytes(*word)));
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_be_bytes(last)))
    }

    /// Adds a number of 32 bits.
    #[must_use]
    pub fn add_number(self, number: u32) -> Self {
        Self(self.0 + u64::from(number))
    }

    /// What goes into the header.
    pub fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
    }
}

/// Completes the checksum over all from `start` on, `offset` bytes behind which it is to be. There is the
/// sum of what is not to be found behind `start` (virtio 1.2, 5.1.6.2).
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> Result<(), Beyond> {
    let covered = frame.get_mut(usize::from(start)..).ok_or(Beyond)?;
    let sum = Sum::default().add(covered).finish();
    let place = covered.get_mut(usize::from(offset)..).and_then(<[u8]>::first_chunk_mut);
    // 0 says that there is none, to UDP; to others both are the same number.
    *place.ok_or(Beyond)? = if sum == [0; 2] { [0xff; 2] } else { sum };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, 3: the sum is 0xddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).finish(), (!0xddf2_u16).to_be_bytes());
    }

    #[test]
    fn an_ip_header_that_is_known() {
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        complete(&mut header, 0, 10).unwrap();
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    #[test]
    fn what_is_beyond_the_frame_is_refused() {
        let mut frame = [1; 60];
        for (start, offset) in [(61, 0), (60, 0), (59, 0), (34, 25), (34, u16::MAX), (u16::MAX, 0)]
        {
            assert_eq!(complete(&mut frame, start, offset), Err(Beyond), "{start} {offset}");
        }
        assert_eq!(frame, [1; 60]);
        complete(&mut frame, 34, 24).unwrap();
    }

    #[test]
    fn zero_is_never_written() {
        let mut frame = [0xff, 0xff, 0, 0];
        complete(&mut frame, 0, 2).unwrap();
        assert_eq!(frame[2..], [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn a_receiver_that_checks_finds_it_right(
            mut frame in prop::collection::vec(any::<u8>(), 0..200),
            start in 0u16..220,
            offset in 0u16..220,
        ) {
            let before = frame.clone();
            let done = complete(&mut frame, start, offset);
            let (start, offset) = (usize::from(start), usize::from(offset));
            prop_assert_eq!(done.is_ok(), start + offset + 2 <= frame.len());
            // The sum that was there stands for the pseudo header.
            if done.is_ok() && offset.is_multiple_of(2) {
                let place = start + offset;
                let pseudo = u32::from(u16::from_be_bytes([before[place], before[place + 1]]));
                let sum = Sum::default().add(&frame[start..]).add_number(pseudo);
                prop_assert!(matches!(sum.finish(), [0, 0] | [0xff, 0xff]));
            }
            let same = |at: usize| at == start + offset || at == start + offset + 1 || frame[at] == before[at];
            prop_assert!((0..frame.len()).all(same), "nothing else is written");
        }
    }
}
