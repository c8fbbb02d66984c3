//! What an archive may make the host hold or do: the one place that says no.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// Longest path and symbolic link target in bytes, without the closing NUL (`PATH_MAX`).
pub const PATH_BYTES: usize = 4095;
/// Longest file name in bytes (`NAME_MAX`).
pub const NAME_BYTES: usize = 255;
/// Longest extended attribute value in bytes: EROFS counts it in 16 bits.
pub const XATTR_VALUE_BYTES: usize = 65_535;

/// Bounds of one load. The defaults are far above what images are like, and low enough that an
/// archive made to hurt costs minutes and a part of the disk at worst.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files in the archive itself (blobs, manifests).
    pub archive_files: u64,
    /// Bytes of one JSON document of the archive.
    pub json_bytes: u64,
    /// Images in one archive.
    pub images: u64,
    /// Names that an archive gives one image.
    pub names: u64,
    /// Layers of one image.
    pub layers: u64,
    /// Entries of all layers of one image.
    pub entries: u64,
    /// Bytes of names, link targets and extended attributes that are held in memory at once.
    pub metadata_bytes: u64,
    /// Directory look-ups, and entries visited by whiteouts.
    pub steps: u64,
    /// Bytes read from layers' files and bytes that come out of decompression, layers and archive
    /// together.
    pub unpacked_bytes: u64,
    /// Size of the flattened image with the holes of its sparse files, in bytes.
    pub image_bytes: u64,
    /// Bytes of the file system that are left to others.
    pub reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_files: 100_000,
            json_bytes: 4 << 20,
            images: 256,
            names: 1_000,
            layers: 1_000,
            entries: 4_000_000,
            metadata_bytes: 1 << 30,
            steps: 400_000_000,
            unpacked_bytes: 512 << 30,
            image_bytes: 8 << 40,
            reserve_bytes: 64 << 20,
        }
    }
}

/// A bound that an archive ran into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// one of [`Limits`]
    #[error("more than {limit} {what}")]
    Exceeded {
        /// what there is too much of
        what: &'static str,
        /// the bound
        limit: u64,
    },
    /// the file system is full but for the reserve, or would be
    #[error("no space is left on the device")]
    Disk,
}

impl LimitError {
    /// A full file system or quota, as a write tells it.
    #[must_use]
    pub fn of_write(error: &io::Error) -> Option<Self> {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        full.contains(&error.kind()).then_some(Self::Disk)
    }
}

/// What one load has used of its [`Limits`].
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    archive_files: u64,
    entries: u64,
    /// Held for the whole of the load.
    archive_bytes: u64,
    /// Held for the tree of one image.
    tree_bytes: u64,
    steps: u64,
    unpacked_bytes: u64,
    room: Room,
}

/// What may still be stored in a file system, of which a reserve is left to others.
#[derive(Debug, Clone)]
pub struct Room {
    directory: PathBuf,
    reserve_bytes: u64,
    /// Bytes that may be stored before the file system is asked again.
    granted_bytes: u64,
}

/// How much is stored between two looks at the free space.
const GRANT_BYTES: u64 = 16 << 20;

impl Room {
    /// That of the file system of `directory`.
    #[must_use]
    pub fn new(limits: &Limits, directory: &Path) -> Self {
        let reserve_bytes = limits.reserve_bytes;
        Self { directory: directory.to_owned(), reserve_bytes, granted_bytes: 0 }
    }

    /// `bytes` are about to be stored; refused where they would fill the file system.
    pub fn stored(&mut self, bytes: u64) -> Result<(), LimitError> {
        if bytes > self.granted_bytes {
            let wanted = bytes.saturating_add(GRANT_BYTES);
            // What cannot be asked is left to the write itself.
            if let Ok(room) = statvfs(&self.directory) {
                let free = room.blocks_available().saturating_mul(room.fragment_size());
                if free < wanted.saturating_add(self.reserve_bytes) {
                    return Err(LimitError::Disk);
                }
            }
            self.granted_bytes = wanted;
        }
        self.granted_bytes -= bytes;
        Ok(())
    }
}

impl Budget {
    /// A whole budget for files stored under `directory`.
    #[must_use]
    pub fn new(limits: Limits, directory: &Path) -> Self {
        Self {
            room: Room::new(&limits, directory),
            limits,
            archive_files: 0,
            entries: 0,
            archive_bytes: 0,
            tree_bytes: 0,
            steps: 0,
            unpacked_bytes: 0,
        }
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts another image: what was counted for the tree of the one before is given back.
    pub fn next_image(&mut self) {
        self.entries = 0;
        self.tree_bytes = 0;
    }

    /// One more file in the archive, of whose names `bytes` are kept.
    pub fn archive_file(&mut self, bytes: usize) -> Result<(), LimitError> {
        charge(&mut self.archive_files, 1, self.limits.archive_files, "files in the archive")?;
        self.document(bytes)
    }

    /// `bytes` more of the archive's names and documents in memory.
    pub fn document(&mut self, bytes: usize) -> Result<(), LimitError> {
        self.archive_bytes = self.archive_bytes.saturating_add(bytes as u64);
        self.memory()
    }

    /// One more entry of a layer.
    pub fn entry(&mut self) -> Result<(), LimitError> {
        charge(&mut self.entries, 1, self.limits.entries, "entries in the layers")
    }

    /// `bytes` more of names, link targets or attributes of the tree in memory.
    pub fn metadata(&mut self, bytes: usize) -> Result<(), LimitError> {
        self.tree_bytes = self.tree_bytes.saturating_add(bytes as u64);
        self.memory()
    }

    fn memory(&self) -> Result<(), LimitError> {
        let held = self.archive_bytes.saturating_add(self.tree_bytes);
        check(held, self.limits.metadata_bytes, "bytes of names, attributes and documents")
    }

    /// `steps` more look-ups in directories.
    pub fn steps(&mut self, steps: u64) -> Result<(), LimitError> {
        charge(&mut self.steps, steps, self.limits.steps, "directory look-ups")
    }

    /// `bytes` more came out of a decompressor or the archive.
    pub fn unpacked(&mut self, bytes: u64) -> Result<(), LimitError> {
        let what = "bytes after decompression";
        charge(&mut self.unpacked_bytes, bytes, self.limits.unpacked_bytes, what)
    }

    /// The image is now `bytes` long.
    pub fn image(&self, bytes: u64) -> Result<(), LimitError> {
        check(bytes, self.limits.image_bytes, "bytes in the flattened image")
    }

    /// An image has `layers` layers.
    pub fn layers(&self, layers: usize) -> Result<(), LimitError> {
        check(layers as u64, self.limits.layers, "layers in one image")
    }

    /// An image has `names` names.
    pub fn names(&self, names: usize) -> Result<(), LimitError> {
        check(names as u64, self.limits.names, "names for one image")
    }

    /// An archive has `images` images.
    pub fn images(&self, images: usize) -> Result<(), LimitError> {
        check(images as u64, self.limits.images, "images in one archive")
    }

    /// `bytes` are about to be stored; refused where they would fill the file system.
    pub fn stored(&mut self, bytes: u64) -> Result<(), LimitError> {
        self.room.stored(bytes)
    }
}

/// Adds `more` to `used`, or says that `limit` is passed.
fn charge(used: &mut u64, more: u64, limit: u64, what: &'static str) -> Result<(), LimitError> {
    *used = used.saturating_add(more);
    check(*used, limit, what)
}

fn check(value: u64, limit: u64, what: &'static str) -> Result<(), LimitError> {
    if value > limit { Err(LimitError::Exceeded { what, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_to_the_last() {
        let limits = Limits { entries: 2, ..Limits::default() };
        let mut budget = Budget::new(limits, Path::new("/"));
        budget.entry().unwrap();
        budget.entry().unwrap();
        let refused = LimitError::Exceeded { what: "entries in the layers", limit: 2 };
        assert_eq!(budget.entry(), Err(refused));
        budget.next_image();
        budget.entry().unwrap();
    }

    #[test]
    fn what_the_archive_holds_stays_counted_from_image_to_image() {
        let limits = Limits { metadata_bytes: 10, ..Limits::default() };
        let mut budget = Budget::new(limits, Path::new("/"));
        budget.archive_file(6).unwrap();
        budget.metadata(4).unwrap();
        budget.next_image();
        budget.metadata(4).unwrap();
        budget.metadata(1).unwrap_err();
    }

    #[test]
    fn more_than_the_disk_holds_is_refused_before_it_is_written() {
        let mut budget = Budget::new(Limits::default(), Path::new("/"));
        budget.stored(1).unwrap();
        assert_eq!(budget.stored(u64::MAX), Err(LimitError::Disk));
    }
}
