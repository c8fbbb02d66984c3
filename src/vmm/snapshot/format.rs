//! The bytes of a snapshot's state, and of what else is written down with it.
//!
//! ```text
//!  0   8  "AMPOULES" (or what else it is)
//!  8   4  format version
//! 12   4  CRC-32 of everything behind this field
//! 16  16  version of the ampoule that wrote it, padded with zeros
//! 32   8  bytes of the state
//! 40   …  the state (postcard)
//! ```
//! All numbers are little-endian. postcard rather than JSON: it holds bytes as bytes, and is read at
//! every warm start.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::MachineState;

const MAGIC: &[u8; 8] = b"AMPOULES";

/// Version of the format: grows with every change of [`MachineState`].
pub const VERSION: u32 = 3;

const CHECKED_FROM: usize = 16;
const WRITER: usize = 16;

/// Bytes that are no snapshot's state.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// something else altogether
    #[error("this is no snapshot of ampoule")]
    NotASnapshot,
    /// written by another ampoule
    #[error("it has format version {found}, this ampoule reads {VERSION}: make it anew")]
    Version {
        /// its version
        found: u32,
    },
    /// cut off
    #[error("it is truncated: {found} bytes of {expected}")]
    Truncated {
        /// bytes that are there
        found: usize,
        /// bytes that should be
        expected: u64,
    },
    /// changed since it was written
    #[error("it is damaged: its checksum is wrong")]
    Checksum,
    /// the checksum is right, but not what it covers
    #[error("it is damaged: its contents make no sense")]
    Contents(#[source] postcard::Error),
    /// it cannot be written
    #[error("it cannot be encoded")]
    Encode(#[source] postcard::Error),
}

/// A machine's state as bytes.
pub fn encode(state: &MachineState) -> Result<Vec<u8>, FormatError> {
    seal(MAGIC, state)
}

/// The machine's state of these bytes.
pub fn decode(bytes: &[u8]) -> Result<MachineState, FormatError> {
    open(MAGIC, bytes)
}

/// Something as bytes of this form.
pub(super) fn seal(magic: &[u8; 8], state: &impl Serialize) -> Result<Vec<u8>, FormatError> {
    let body = postcard::to_stdvec(state).map_err(FormatError::Encode)?;
    let mut checked = Vec::with_capacity(WRITER + 8 + body.len());
    let mut writer = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
    writer.resize(WRITER, 0);
    checked.extend(writer);
    checked.extend((body.len() as u64).to_le_bytes());
    checked.extend(body);
    let checksum = crc32fast::hash(&checked);
    Ok([magic.as_slice(), &VERSION.to_le_bytes(), &checksum.to_le_bytes(), &checked].concat())
}

/// What [`seal`] made these bytes of.
pub(super) fn open<T: DeserializeOwned>(magic: &[u8; 8], bytes: &[u8]) -> Result<T, FormatError> {
    let truncated = |expected| FormatError::Truncated { found: bytes.len(), expected };
    let rest = bytes.strip_prefix(magic).ok_or(FormatError::NotASnapshot)?;
    let header = (CHECKED_FROM + WRITER + 8) as u64;
    let (version, rest) = number(rest).ok_or_else(|| truncated(header))?;
    if version != VERSION {
        return Err(FormatError::Version { found: version });
    }
    let (checksum, checked) = number(rest).ok_or_else(|| truncated(header))?;
    let body = checked.get(WRITER..).and_then(|rest| rest.split_first_chunk::<8>());
    let (len, body) = body.ok_or_else(|| truncated(header))?;
    let len = u64::from_le_bytes(*len);
    if (body.len() as u64) < len {
        return Err(truncated(len.saturating_add(header)));
    }
    if crc32fast::hash(checked) != checksum {
        return Err(FormatError::Checksum);
    }
    postcard::from_bytes(body).map_err(FormatError::Contents)
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::snapshot::state::testing::state;
    use proptest::prelude::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let state = state();
        let decoded = decode(&encode(&state).unwrap()).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{state:?}"));
    }

    #[test]
    fn each_kind_of_damage_is_told_apart() {
        let good = encode(&state()).unwrap();
        assert!(matches!(decode(b"ELF"), Err(FormatError::NotASnapshot)));
        let mut other = good.clone();
        other[8] = 99;
        assert!(matches!(decode(&other), Err(FormatError::Version { found: 99 })));
        for len in [9, 13, 39, good.len() - 1] {
            let cut = decode(&good[..len]).unwrap_err();
            assert!(matches!(cut, FormatError::Truncated { .. }), "{len}: {cut}");
        }
        let longer = [good.as_slice(), b"x"].concat();
        assert!(matches!(decode(&longer), Err(FormatError::Checksum)));
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_seen(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encode(&state()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let with_magic = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
            prop_assert!(decode(&bytes).is_err());
            prop_assert!(decode(&with_magic).is_err());
            // Behind the checksum, too.
            let _ = postcard::from_bytes::<MachineState>(&bytes);
        }
    }
}
