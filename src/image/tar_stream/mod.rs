//! Reads the entries of a tar archive one after another: ustar, PAX and GNU formats.
//!
//! The blocks are those of the `tar` crate, the reader is not: the crate's reads extended headers
//! of any size into memory, cuts attribute values at newlines (which `security.capability` may
//! hold), and knows nothing of PAX sparse files and of times before 1970. Where archives leave a
//! choice, Go's `archive/tar` is followed, because docker and containerd read with it and two
//! readers of one image must see the same files.

mod error;
mod pax;
mod sparse;

pub use ampoule_protocol::archive::Kind;
pub use error::TarError;
pub use sparse::Extent;

use std::io::{self, Read};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::digest::HashReader;
use super::limits::Budget;
use pax::Records;

/// Unit of the format, in bytes.
const BLOCK: u64 = 512;
/// Most bytes of an extended header or a long name, as in Go.
const EXTENDED_BYTES: u64 = 1 << 20;

/// What is left of an entry can be passed over.
pub trait Skip: Read {
    /// Moves on by `count` bytes; an end of the input before them is an error of the kind
    /// [`io::ErrorKind::UnexpectedEof`].
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

impl<R: Read> Skip for HashReader<R> {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(buffer.len());
            match self.read(buffer.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => count -= read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One entry of the archive, without its data.
#[derive(Debug)]
pub struct Entry {
    /// name as it stands in the archive
    pub path: Vec<u8>,
    /// target of a hard or symbolic link
    pub link: Vec<u8>,
    /// what it is
    pub kind: Kind,
    /// permission bits with set-user-id, set-group-id and sticky
    pub mode: u16,
    /// owner
    pub uid: u32,
    /// group
    pub gid: u32,
    /// time of the last change: seconds since 1970, and nanoseconds
    pub mtime: (i64, u32),
    /// extended attributes: full name, value
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// size of a regular file with its holes, in bytes
    pub size: u64,
    /// the parts of a regular file that the archive holds; the whole file unless it is sparse
    pub extents: Vec<Extent>,
}

impl Entry {
    /// Whether a regular file has no holes.
    pub fn is_whole(&self) -> bool {
        self.extents.iter().map(|extent| extent.length).sum::<u64>() == self.size
    }

    /// The name for messages.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// A tar archive as a stream of entries.
#[derive(Debug)]
pub struct TarStream<R> {
    reader: R,
    position: u64,
    /// Bytes of the current entry's data that were not read yet.
    data: u64,
    /// Bytes that fill up its last block.
    padding: u64,
    ended: bool,
    marked: bool,
}

/// Headers that say something about the entry after them.
#[derive(Default)]
struct Extended {
    records: Records,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Skip> TarStream<R> {
    /// Reads entries from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, position: 0, data: 0, padding: 0, ended: false, marked: false }
    }

    /// Where the stream stands, in bytes from its start.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the stream has come to the blocks of zeroes that end an archive.
    pub fn end_marked(&self) -> bool {
        self.marked
    }

    /// The reader, somewhere behind the last entry that was read.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; none at the end. Data of the entry before that nobody read are skipped.
    pub fn next(&mut self, budget: &mut Budget) -> Result<Option<Entry>, TarError> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.data.saturating_add(self.padding))?;
            (self.data, self.padding) = (0, 0);
            let Some(header) = self.header(budget)? else {
                return Ok(None);
            };
            let size = number(&header.as_old().size).and_then(|size| u64::try_from(size).ok());
            let flag = header.as_old().linkflag[0];
            let special = match (flag, size) {
                (b'x' | b'g' | b'L' | b'K', Some(size)) => self.special(size, budget)?,
                (b'x' | b'g' | b'L' | b'K', None) => {
                    return Err(TarError::Extended { position: self.position });
                }
                _ => return self.entry(&header, size, extended, budget).map(Some),
            };
            match flag {
                b'x' => {
                    let malformed = |_| TarError::Extended { position: self.position };
                    extended.records = Records::parse(&special).map_err(malformed)?;
                }
                b'L' => extended.path = Some(until_nul(&special)),
                b'K' => extended.link = Some(until_nul(&special)),
                // Global records describe the archive (git puts a commit there), not files.
                _ => {}
            }
        }
    }

    /// Reads on in the current entry's data; 0 at their end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted = usize::try_from(self.data).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let read = loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match read {
            Ok(0) => Err(TarError::Truncated { position: self.position }),
            Ok(read) => {
                self.position += read as u64;
                self.data -= read as u64;
                Ok(read)
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> TarError {
        let position = self.position;
        match source.kind() {
            io::ErrorKind::UnexpectedEof => TarError::Truncated { position },
            _ => TarError::Read { position, source },
        }
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        if count > 0 {
            self.reader.skip(count).map_err(|source| self.failed(source))?;
            self.position = self.position.saturating_add(count);
        }
        Ok(())
    }

    /// The next block that is a header; none at the end of the archive.
    fn header(&mut self, budget: &mut Budget) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let start = self.position;
        // An archive may end without its two blocks of zeroes, but not within a block.
        if !self.block(header.as_mut_bytes(), budget)? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.ended = true;
            self.marked = true;
            return Ok(None);
        }
        if !checksum_fits(&header) {
            return Err(TarError::Header { position: start });
        }
        Ok(Some(header))
    }

    /// Fills `block`, or finds the end of the stream before it. Blocks that are no data of a file
    /// are counted here: a compressed layer may be made of little else.
    fn block(&mut self, block: &mut [u8; 512], budget: &mut Budget) -> Result<bool, TarError> {
        budget.unpacked(BLOCK)?;
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => {
                    return Err(TarError::Truncated { position: self.position });
                }
                Ok(read) => {
                    filled += read;
                    self.position += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        Ok(true)
    }

    /// The body of a header that describes the next entry.
    fn special(&mut self, size: u64, budget: &mut Budget) -> Result<Vec<u8>, TarError> {
        let position = self.position;
        if size > EXTENDED_BYTES {
            return Err(TarError::TooLarge {
                what: "extended header",
                position,
                limit: EXTENDED_BYTES,
            });
        }
        budget.unpacked(size)?;
        self.begin_data(size);
        let mut body = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.read_data(&mut chunk)? {
                0 => return Ok(body),
                read => body.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            }
        }
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn entry(
        &mut self,
        header: &Header,
        size: Option<u64>,
        extended: Extended,
        budget: &mut Budget,
    ) -> Result<Entry, TarError> {
        let Extended { records, path, link } = extended;
        let sparse_name = records.sparse.name.clone();
        let path = path
            .or(sparse_name)
            .or(records.path.clone())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let invalid = |field| TarError::Field { path: lossy(&path), field };
        let old = header.as_old();
        let id = |record: Option<u64>, field: &[u8]| {
            let id = record.map_or_else(|| number(field), |id| i64::try_from(id).ok());
            id.and_then(|id| u32::try_from(id).ok())
        };
        let mode = number(&old.mode).and_then(|mode| u16::try_from(mode & 0o7777).ok());
        let mtime = records.mtime.or_else(|| number(&old.mtime).map(|seconds| (seconds, 0)));
        let size = records.size.or(size).ok_or_else(|| invalid("size"))?;
        let mut entry = Entry {
            kind: kind(header, &path)?,
            mode: mode.ok_or_else(|| invalid("mode"))?,
            uid: id(records.uid, &old.uid).ok_or_else(|| invalid("uid"))?,
            gid: id(records.gid, &old.gid).ok_or_else(|| invalid("gid"))?,
            mtime: mtime.ok_or_else(|| invalid("mtime"))?,
            link: link
                .or(records.link.clone())
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
                .unwrap_or_default(),
            xattrs: Vec::new(),
            size: 0,
            extents: Vec::new(),
            path,
        };
        if entry.kind == Kind::File {
            self.begin_data(size);
            self.map(header, size, &records, &mut entry, budget)?;
        }
        entry.xattrs = records.xattrs.into_iter().collect();
        Ok(entry)
    }

    /// Finds out which parts of a regular file of `stored` bytes in the archive these are.
    fn map(
        &mut self,
        header: &Header,
        stored: u64,
        records: &Records,
        entry: &mut Entry,
        budget: &mut Budget,
    ) -> Result<(), TarError> {
        let sparse = || TarError::Sparse { path: lossy(&entry.path) };
        let extents = if header.as_old().linkflag[0] == b'S' {
            let (extents, size) = self.old_map(header, &entry.path, budget)?;
            entry.size = size;
            Some(extents)
        } else if records.sparse.in_data {
            entry.size = records.sparse.size.ok_or_else(sparse)?;
            Some(self.map_in_data(&entry.path, budget)?)
        } else if let Some(extents) = records.sparse.map().map_err(|_| sparse())? {
            entry.size = records.sparse.size.ok_or_else(sparse)?;
            Some(extents)
        } else {
            None
        };
        entry.extents = match extents {
            Some(extents) => {
                budget.steps(extents.len() as u64)?;
                sparse::check(extents, entry.size, self.data).ok_or_else(sparse)?
            }
            None => {
                entry.size = stored;
                if stored > 0 { vec![Extent { offset: 0, length: stored }] } else { Vec::new() }
            }
        };
        Ok(())
    }

    /// The map of GNU's old format, and the size of the file.
    fn old_map(
        &mut self,
        header: &Header,
        path: &[u8],
        budget: &mut Budget,
    ) -> Result<(Vec<Extent>, u64), TarError> {
        let sparse = || TarError::Sparse { path: lossy(path) };
        let gnu = header.as_gnu().ok_or_else(sparse)?;
        let size = number(&gnu.realsize).and_then(|size| u64::try_from(size).ok());
        let mut map = sparse::OldMap::default();
        let mut push = |pair: &GnuSparseHeader| {
            if pair.is_empty() {
                return Some(());
            }
            let offset = u64::try_from(number(&pair.offset)?).ok()?;
            let length = u64::try_from(number(&pair.numbytes)?).ok()?;
            map.push(offset, length).ok()
        };
        gnu.sparse.iter().try_for_each(&mut push).ok_or_else(sparse)?;
        // A chain without pairs ends as well: each block of it takes 512 bytes of the stream.
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.block(block.as_mut_bytes(), budget)? {
                return Err(TarError::Truncated { position: self.position });
            }
            block.sparse.iter().try_for_each(&mut push).ok_or_else(sparse)?;
            more = block.is_extended();
        }
        Ok((map.finish(), size.ok_or_else(sparse)?))
    }

    fn map_in_data(&mut self, path: &[u8], budget: &mut Budget) -> Result<Vec<Extent>, TarError> {
        let mut parser = sparse::MapParser::default();
        let sparse = || TarError::Sparse { path: lossy(path) };
        loop {
            let mut block = [0; 512];
            if self.data < BLOCK {
                return Err(sparse());
            }
            if !self.block(&mut block, budget)? {
                return Err(TarError::Truncated { position: self.position });
            }
            self.data -= BLOCK;
            if let Some(map) = parser.block(&block).map_err(|_| sparse())? {
                return Ok(map);
            }
        }
    }
}

/// What the type flag says; only these may have data: Go takes no data for the other kinds,
/// whatever size their headers claim.
fn kind(header: &Header, path: &[u8]) -> Result<Kind, TarError> {
    let device = || {
        let field = |field: &'static str| TarError::Field { path: lossy(path), field };
        let ustar = header.as_ustar().map(|ustar| (&ustar.dev_major, &ustar.dev_minor));
        let gnu = header.as_gnu().map(|gnu| (&gnu.dev_major, &gnu.dev_minor));
        let (major, minor) = ustar.or(gnu).ok_or_else(|| field("device number"))?;
        // Linux has 12 bits of major and 20 of minor number.
        let in_range = |number: Option<i64>, bits: u32| {
            number
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| number >> bits == 0)
        };
        let major = in_range(number(major), 12).ok_or_else(|| field("major device number"))?;
        let minor = in_range(number(minor), 20).ok_or_else(|| field("minor device number"))?;
        Ok::<_, TarError>((major, minor))
    };
    Ok(match header.as_old().linkflag[0] {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
        b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(TarError::Kind { path: lossy(path), kind: char::from(other) });
        }
    })
}

/// Whether the header's checksum is that of its bytes, taken as unsigned or, as some old writers
/// did, as signed.
pub fn checksum_fits(header: &Header) -> bool {
    let Some(expected) = number(&header.as_old().cksum) else {
        return false;
    };
    let bytes = header.as_bytes().iter().enumerate();
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, byte) in bytes {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    expected == unsigned || expected == signed
}

/// The value of a numeric field: octal digits among spaces and NULs, nothing for zero, or binary
/// (two's complement, most significant byte first) behind a set top bit.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        let text = field.split(|byte| *byte == 0).find(|part| !part.is_empty()).unwrap_or_default();
        let text = text.trim_ascii();
        return text.iter().try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        });
    }
    let negative = first & 0x40 != 0;
    let first = if negative { i64::from(first | 0x80) - 256 } else { i64::from(first & 0x7f) };
    rest.iter().try_fold(first, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()))
}

fn until_nul(text: &[u8]) -> Vec<u8> {
    text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests;
