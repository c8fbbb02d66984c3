//! Framing: u32 length (little endian), then that many bytes of JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest frame body that either side takes, in bytes. An OCI `config.json` with a full seccomp
/// profile is about 64 KiB; containerd caps its own at 4 MiB.
pub const MAX_FRAME: u32 = 4 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// the connection ended between two frames
    #[error("the connection was closed")]
    Closed,
    /// the peer announced a frame beyond the limit
    #[error("a frame of {0} bytes is beyond the limit of {MAX_FRAME}")]
    TooLarge(u64),
    /// the frame's body is not the JSON that was expected
    #[error("malformed message")]
    Malformed(#[source] serde_json::Error),
    /// the connection failed or ended inside a frame
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// Reads one frame's body; [`FrameError::Closed`] where the stream ends before its first byte.
///
/// Memory grows with what has really arrived, not with what the length promises.
pub fn read_bytes(from: &mut impl Read) -> Result<Vec<u8>, FrameError> {
    let mut length = [0u8; 4];
    let mut have = 0;
    while have < length.len() {
        match from.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(FrameError::Io(e)),
        }
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME {
        return Err(FrameError::TooLarge(u64::from(length)));
    }
    let mut body = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut body).map_err(FrameError::Io)?;
    if body.len() as u64 != u64::from(length) {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}

/// Reads one message.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    parse(&read_bytes(from)?)
}

/// The message in a frame's body.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Malformed)
}

/// A message as one frame, length included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0u8; 4];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let length = frame.len() - 4;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|l| *l <= MAX_FRAME)
        .ok_or(FrameError::TooLarge(length as u64))?;
    frame[..4].copy_from_slice(&prefix.to_le_bytes());
    Ok(frame)
}

/// Writes one message with a single write where the stream takes it whole.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(text in ".{0,200}", number: u64) {
            let frame = encode(&(text.clone(), number)).unwrap();
            let back: (String, u64) = read(&mut frame.as_slice()).unwrap();
            prop_assert_eq!(back, (text, number));
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read::<serde_json::Value>(&mut bytes.as_slice());
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_its_body_is_read() {
        let bytes = (MAX_FRAME + 1).to_le_bytes();
        assert!(matches!(read_bytes(&mut bytes.as_slice()), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn an_end_between_frames_differs_from_an_end_inside_one() {
        assert!(matches!(read_bytes(&mut [].as_slice()), Err(FrameError::Closed)));
        assert!(matches!(read_bytes(&mut [4, 0].as_slice()), Err(FrameError::Io(_))));
        assert!(matches!(read_bytes(&mut [4, 0, 0, 0, b'1'].as_slice()), Err(FrameError::Io(_))));
    }
}
