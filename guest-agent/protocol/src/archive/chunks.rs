//! Bytes of a length that nobody knows beforehand: u32 length (little endian) and that many bytes, any number of
//! times, and a length of zero.

use std::io::{self, Read, Write};

/// Most bytes of a chunk.
pub const MAX_CHUNK: u32 = 64 << 10;

/// Sends what is written to it in chunks.
#[derive(Debug)]
pub struct ChunkWriter<W: Write> {
    to: W,
    /// Room for the length, and what is not sent yet.
    chunk: Vec<u8>,
}

/// Bytes of a chunk's length.
const PREFIX: usize = 4;

impl<W: Write> ChunkWriter<W> {
    /// Sends to `to`.
    pub fn new(to: W) -> Self {
        Self { to, chunk: vec![0; PREFIX] }
    }

    /// Sends what is left, and the end.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        self.to.write_all(&0u32.to_le_bytes())?;
        Ok(self.to)
    }
}

impl<W: Write> Write for ChunkWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (MAX_CHUNK as usize + PREFIX).saturating_sub(self.chunk.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.chunk.extend_from_slice(taken);
        if taken.len() == room {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.chunk.len() - PREFIX).map_err(io::Error::other)?;
        if length > 0 {
            self.chunk[..PREFIX].copy_from_slice(&length.to_le_bytes());
            self.to.write_all(&self.chunk)?;
            self.chunk.truncate(PREFIX);
        }
        Ok(())
    }
}

/// Reads what comes in chunks, up to their end.
#[derive(Debug)]
pub struct ChunkReader<R: Read> {
    from: R,
    left: u32,
    ended: bool,
}

impl<R: Read> ChunkReader<R> {
    /// Reads from `from`.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, ended: false }
    }

    /// Whether the end has come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The connection, behind what was read of it.
    pub fn into_inner(self) -> R {
        self.from
    }
}

impl<R: Read> Read for ChunkReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut length = [0; PREFIX];
            self.from.read_exact(&mut length)?;
            self.left = u32::from_le_bytes(length);
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
            if self.left > MAX_CHUNK {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk is too long"));
            }
        }
        let wanted = buffer.len().min(self.left as usize);
        let read = self.from.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(u32::try_from(read).unwrap_or(u32::MAX));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_follows_is_left(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..9),
            large in 0usize..200_000,
        ) {
            let mut writer = ChunkWriter::new(Vec::new());
            let mut all = vec![7; large];
            writer.write_all(&all).unwrap();
            for part in &parts {
                writer.write_all(part).unwrap();
                all.extend(part);
            }
            let mut sent = writer.finish().unwrap();
            sent.extend(b"behind");
            let mut reader = ChunkReader::new(sent.as_slice());
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            prop_assert!(read == all && reader.has_ended());
            prop_assert_eq!(reader.into_inner(), b"behind");
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = io::copy(&mut ChunkReader::new(bytes.as_slice()), &mut io::sink());
        }
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_an_error() {
        let long = (MAX_CHUNK + 1).to_le_bytes();
        for bytes in [&b""[..], b"\x01", b"\x02\0\0\0x", &long] {
            let mut reader = ChunkReader::new(bytes);
            assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "{bytes:?}");
            assert!(!reader.has_ended());
        }
    }
}
