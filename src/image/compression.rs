//! Compression of layers and archives, told by their first bytes: media types say nothing in
//! `docker save` archives, and are sometimes wrong elsewhere.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Bytes that are looked at.
const MAGIC_BYTES: usize = 6;

/// How data are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// not at all
    None,
    /// gzip, of one member or several
    Gzip,
    /// Zstandard, of one frame or several
    Zstd,
}

/// A compression that ampoule cannot undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} compression is not supported (gzip and zstd are)")]
pub struct Unsupported(&'static str);

impl Compression {
    /// Tells by the first bytes of the data.
    pub fn of(start: &[u8]) -> Result<Self, Unsupported> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or one that decoders skip in front of it (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(Unsupported("xz")),
            [b'B', b'Z', b'h', ..] => Err(Unsupported("bzip2")),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err(Unsupported("lz4")),
            _ => Ok(Self::None),
        }
    }

    /// Tells by the first bytes that `reader` gives, which it gives again afterwards.
    pub fn sniff<R: Read>(mut reader: R) -> io::Result<(Result<Self, Unsupported>, Sniffed<R>)> {
        let mut start = Vec::with_capacity(MAGIC_BYTES);
        (&mut reader).take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
        let found = Self::of(&start);
        Ok((found, io::Cursor::new(start).chain(reader)))
    }
}

/// A reader whose first bytes were looked at.
pub type Sniffed<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// Undoes a compression.
pub enum Decoder<R: Read> {
    /// passes data on
    None(BufReader<R>),
    /// gzip
    Gzip(MultiGzDecoder<BufReader<R>>),
    /// Zstandard; windows beyond 128 MiB are refused
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None(_) => "None",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<R: Read> Decoder<R> {
    /// Undoes `compression` of what `reader` gives.
    pub fn new(compression: Compression, reader: R) -> io::Result<Self> {
        let reader = BufReader::with_capacity(128 << 10, reader);
        Ok(match compression {
            Compression::None => Self::None(reader),
            Compression::Gzip => Self::Gzip(MultiGzDecoder::new(reader)),
            Compression::Zstd => Self::Zstd(zstd::Decoder::with_buffer(reader)?),
        })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// Reads `reader` to its end.
pub fn drain(reader: &mut impl Read) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    loop {
        let length = match reader.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => bytes.len(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn round(compression: Compression, data: &[u8]) -> Vec<u8> {
        let (found, reader) = Compression::sniff(data).unwrap();
        assert_eq!(found, Ok(compression));
        let mut plain = Vec::new();
        Decoder::new(compression, reader).unwrap().read_to_end(&mut plain).unwrap();
        plain
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_compression_is_told_and_undone() {
        assert_eq!(round(Compression::None, b"plain"), b"plain");
        assert_eq!(round(Compression::Gzip, &gzip(b"gzip")), b"gzip");
        assert_eq!(round(Compression::Zstd, &zstd::encode_all(&b"zstd"[..], 1).unwrap()), b"zstd");
    }

    #[test]
    fn members_and_frames_in_a_row_are_one_stream() {
        assert_eq!(round(Compression::Gzip, &[gzip(b"a"), gzip(b"b")].concat()), b"ab");
        let frame = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &frame(b"a"), &frame(b"b")];
        assert_eq!(round(Compression::Zstd, &skipped.concat()), b"ab");
    }

    #[test]
    fn other_compressions_are_named() {
        assert_eq!(Compression::of(b"\xfd7zXZ\0"), Err(Unsupported("xz")));
        assert_eq!(Compression::of(b"BZh91AY"), Err(Unsupported("bzip2")));
    }
}
