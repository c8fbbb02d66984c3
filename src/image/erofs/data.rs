//! Data of files, written to the image as they are read from the layers.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use nix::fcntl::{FallocateFlags, fallocate};

use super::super::limits::{Budget, LimitError};
use super::{BLOCK, Content, tail_bytes};

/// Holes from this size on are left out of the image file instead of written, in bytes.
const SEEK_BYTES: u64 = 64 << 10;
const ZEROES: [u8; 4096] = [0; 4096];

/// Why the image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// the image file or that of the tails could not be written or read back
    #[error("writing the image failed")]
    Io(#[source] io::Error),
    /// the image would be larger than it may be
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        LimitError::of_write(&error).map_or_else(|| Self::Io(error), Self::Limit)
    }
}

/// Takes the data of one file after another.
#[derive(Debug)]
pub struct DataWriter {
    pub(super) image: BufWriter<File>,
    /// The next free block.
    pub(super) next: u32,
    /// Ends of files that go behind inodes, one after another.
    pub(super) tails: BufWriter<File>,
    tails_length: u64,
}

impl DataWriter {
    /// Writes to `image`, and what has to wait to `tails`; both are empty.
    pub fn new(image: File, tails: File) -> Result<Self, WriteError> {
        let mut image = BufWriter::with_capacity(1 << 20, image);
        image.write_all(&ZEROES)?;
        let tails = BufWriter::with_capacity(256 << 10, tails);
        Ok(Self { image, next: 1, tails, tails_length: 0 })
    }

    /// Begins a file of `size` bytes whose attributes take `xattr_bytes` in the image.
    pub fn begin(
        &mut self,
        size: u64,
        xattr_bytes: usize,
        budget: &Budget,
    ) -> Result<FileWriter<'_>, WriteError> {
        let tail = tail_bytes(size, xattr_bytes);
        let in_blocks = size - tail;
        let blocks = in_blocks.div_ceil(BLOCK);
        let end = u64::from(self.next).saturating_add(blocks);
        budget.image(end.saturating_mul(BLOCK))?;
        let limit = LimitError::Exceeded { what: "blocks in the image", limit: u32::MAX.into() };
        let blocks = u32::try_from(blocks).ok();
        let (Some(blocks), Ok(_)) = (blocks, u32::try_from(end)) else {
            return Err(limit.into());
        };
        let content = Content {
            size,
            start: if blocks > 0 { self.next } else { 0 },
            blocks,
            tail: (tail > 0).then_some(self.tails_length),
        };
        Ok(FileWriter { writer: self, content, in_blocks, position: 0 })
    }

    /// Gives the blocks of a file that a later layer has taken away back to the file system.
    pub fn discard(&mut self, content: &Content, budget: &mut Budget) -> Result<(), WriteError> {
        if content.blocks == 0 {
            return Ok(());
        }
        self.image.flush()?;
        let offset = i64::try_from(u64::from(content.start) * BLOCK);
        let length = i64::try_from(u64::from(content.blocks) * BLOCK);
        let (Ok(offset), Ok(length)) = (offset, length) else {
            return Ok(());
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self.image.get_ref(), flags, offset, length) {
            Ok(()) => Ok(()),
            // The bytes of the image must not depend on what the file system can do.
            Err(nix::Error::EOPNOTSUPP) => self.overwrite(content, budget),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn overwrite(&mut self, content: &Content, budget: &mut Budget) -> Result<(), WriteError> {
        // Its holes take room now.
        budget.stored(u64::from(content.blocks) * BLOCK)?;
        let end = self.image.stream_position()?;
        self.image.seek(SeekFrom::Start(u64::from(content.start) * BLOCK))?;
        for _ in 0..content.blocks {
            self.image.write_all(&ZEROES)?;
        }
        self.image.seek(SeekFrom::Start(end))?;
        Ok(())
    }
}

/// Takes the data of one file, from its start to its end.
#[derive(Debug)]
pub struct FileWriter<'a> {
    writer: &'a mut DataWriter,
    content: Content,
    /// Bytes that go into blocks; the rest is the tail.
    in_blocks: u64,
    position: u64,
}

impl FileWriter<'_> {
    /// Takes the next bytes; what is beyond the file's size is an error.
    pub fn write(&mut self, bytes: &[u8], budget: &mut Budget) -> Result<(), WriteError> {
        let length = bytes.len() as u64;
        if length > self.content.size - self.position {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        budget.stored(length)?;
        let to_blocks = self.in_blocks.saturating_sub(self.position);
        let to_blocks = usize::try_from(to_blocks).unwrap_or(usize::MAX).min(bytes.len());
        let (blocks, tail) = bytes.split_at(to_blocks);
        self.writer.image.write_all(blocks)?;
        self.writer.tails.write_all(tail)?;
        self.position += length;
        Ok(())
    }

    /// Fills with zeroes up to `offset`, which is not beyond the file's size.
    pub fn hole_to(&mut self, offset: u64, budget: &mut Budget) -> Result<(), WriteError> {
        let in_blocks = self.in_blocks.min(offset).saturating_sub(self.position);
        if in_blocks >= SEEK_BYTES {
            let forward = i64::try_from(in_blocks).map_err(io::Error::other)?;
            self.writer.image.seek(SeekFrom::Current(forward))?;
            self.position += in_blocks;
        }
        while self.position < offset {
            let left = usize::try_from(offset - self.position).unwrap_or(usize::MAX);
            self.write(ZEROES.get(..left).unwrap_or(&ZEROES), budget)?;
        }
        Ok(())
    }

    /// Ends the file; what was not written of it is a hole.
    pub fn finish(mut self, budget: &mut Budget) -> Result<Content, WriteError> {
        self.hole_to(self.content.size, budget)?;
        let padding = self.in_blocks.next_multiple_of(BLOCK) - self.in_blocks;
        let padding = usize::try_from(padding).unwrap_or(0);
        self.writer.image.write_all(ZEROES.get(..padding).unwrap_or_default())?;
        self.writer.next += self.content.blocks;
        self.writer.tails_length += self.content.size - self.in_blocks;
        Ok(self.content)
    }
}
