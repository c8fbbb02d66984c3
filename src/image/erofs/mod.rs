//! Writes EROFS images (Linux, Documentation/filesystems/erofs.rst): uncompressed, 4 KiB blocks.
//!
//! ```text
//! block 0         superblock at byte 1024
//! block 1 …       whole blocks of files, in the order in which the layers have them
//! …               blocks of large directories and long symbolic links
//! meta_blkaddr …  inodes, each followed by its extended attributes and, where it is short, by the
//!                 end of its data ("tail packing")
//! ```
//!
//! Data go straight from the layers into the image file, of which nothing but the first block and
//! the end has to wait for the last layer. All inodes are of the extended form: the compact one
//! holds neither times nor ids beyond 16 bits. There is a writer of our own because none of the
//! crates fits: `erofs-rs` only reads, and `composefs` keeps the data of files outside the image.

mod data;
mod directory;
mod format;
mod metadata;
mod xattr;

pub use data::{DataWriter, WriteError};
pub use xattr::encode_xattrs;

/// Size of a block in bytes.
const BLOCK: u64 = 4096;

/// Longest end of a file's data that is kept behind its inode, in bytes. Longer ones get a block
/// of their own: two of them would not fit into one block of inodes.
const INLINE_BYTES: u64 = 2048;

/// Where the data of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// size of the file in bytes
    size: u64,
    /// first block; of no meaning without blocks
    start: u32,
    /// whole blocks, the last one filled up with zeroes if there is no tail
    blocks: u32,
    /// where the bytes after the last whole block wait for the inode, if they go behind it
    tail: Option<u64>,
}

/// How many of a file's `size` bytes go behind its inode.
fn tail_bytes(size: u64, xattr_bytes: usize) -> u64 {
    let tail = size % BLOCK;
    let inode = format::INODE_BYTES as u64 + xattr_bytes as u64;
    if tail <= INLINE_BYTES && inode + tail <= BLOCK { tail } else { 0 }
}

#[cfg(test)]
mod tests;
