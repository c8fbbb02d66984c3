//! The host side of a disk: a regular file or a block device.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::error::{BlockError, RequestError};
use crate::vmm::config::DiskConfig;
use crate::vmm::devices::virtio::buffers::Segments;

/// Bytes of a sector, the unit of all addresses and lengths (virtio 1.2, 5.2.4), as a shift.
pub const SECTOR_SHIFT: u32 = 9;

/// Bytes of a sector.
pub const SECTOR: usize = 1 << SECTOR_SHIFT;

/// Sectors of an empty slot (1 TiB) that has its serial number already, or for a disk that is only read:
/// more than any image or layer, so that what a restored machine has there needs no change of the capacity,
/// of which the guest would have to hear first. Another slot that can be written to has none: what is
/// plugged into it while the machine runs has its own.
pub const SLOT_SECTORS: u64 = 1 << 31;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// An open disk.
///
/// A file whose size is not a multiple of 512 bytes is offered with its last sector whole: the
/// missing bytes read as zeroes, and the file grows by them when that sector is written.
#[derive(Debug)]
pub struct Disk {
    /// None in an empty slot.
    file: Option<File>,
    sectors: u64,
    /// Sectors of the file: of one that can be written to, nothing beyond is touched.
    end: u64,
    slot: bool,
    read_only: bool,
}

/// A range of a disk, checked.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// First byte.
    offset: u64,
    /// Bytes.
    len: u64,
}

/// Opens and locks the file or block device of a disk: none of an empty slot.
pub fn open(config: &DiskConfig) -> Result<Option<File>, BlockError> {
    let read_only = config.read_only;
    let Some(path) = config.path.clone() else { return Ok(None) };
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        // O_CLOEXEC is std's default. O_NONBLOCK: opening a pipe would wait for its other end.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&path);
    let file = match file {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::IsADirectory => {
            return Err(BlockError::NotADisk { path });
        }
        Err(source) => {
            return Err(BlockError::Open { path, read_only, source });
        }
    };
    let kind = match file.metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(source) => {
            return Err(BlockError::Inspect { path, what: "stat", source });
        }
    };
    if !kind.is_file() && !kind.is_block_device() {
        return Err(BlockError::NotADisk { path });
    }
    match if read_only { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BlockError::InUse { path, read_only }),
        Err(TryLockError::Error(source)) => {
            return Err(BlockError::Inspect { path, what: "locking", source });
        }
    }
    Ok(Some(file))
}

/// Sectors of a disk of so many bytes: its last one is whole.
pub fn sectors_of(bytes: u64) -> u64 {
    bytes.div_ceil(1 << SECTOR_SHIFT)
}

impl Disk {
    /// Opens and locks a disk: exclusively to write to it, shared to read it. The lock is advisory
    /// (`flock`) and goes with the process.
    pub fn open(config: &DiskConfig) -> Result<Self, BlockError> {
        let read_only = config.read_only;
        let opened = match config.opened.get() {
            Some(file) => Some(file.try_clone().map_err(BlockError::Descriptor)?),
            None => open(config)?,
        };
        let Some(mut file) = opened else {
            let sectors = if read_only || config.serial.is_some() { SLOT_SECTORS } else { 0 };
            return Ok(Self::empty(sectors, read_only));
        };
        let path = config.path.clone().unwrap_or_default();
        // The size in the metadata of a block device is 0.
        let len = file.seek(SeekFrom::End(0)).map_err(|source| BlockError::Inspect {
            path: path.clone(),
            what: "finding its size",
            source,
        })?;
        if len == 0 {
            return Err(BlockError::Empty { path });
        }
        Ok(Self::plugged(file, len, read_only))
    }

    /// An empty slot of this capacity.
    pub fn empty(sectors: u64, read_only: bool) -> Self {
        Self { file: None, sectors, end: sectors, slot: true, read_only }
    }

    /// A file of so many bytes, which somebody else has opened and locked.
    pub fn plugged(file: File, bytes: u64, read_only: bool) -> Self {
        let sectors = sectors_of(bytes);
        Self { file: Some(file), sectors, end: sectors, slot: false, read_only }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Whether its capacity is that of a slot, not its file's.
    pub fn is_slot(&self) -> bool {
        self.slot
    }

    /// Makes it a slot of this capacity, which the guest knows. What is beyond the file's end
    /// cannot be read, and not be written.
    ///
    /// The file is not longer than that: what is beyond the capacity is out of reach.
    pub fn make_slot(&mut self, sectors: u64) {
        (self.slot, self.sectors) = (true, sectors);
    }

    fn file(&self) -> Result<&File, RequestError> {
        self.file.as_ref().ok_or_else(|| RequestError::Host(Errno::ENOMEDIUM.into()))
    }

    /// Capacity in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The range of `sectors` sectors from `sector` on, if it is within the disk.
    pub fn extent(&self, sector: u64, sectors: u64) -> Result<Extent, RequestError> {
        let outside = || RequestError::OutOfRange {
            sector,
            bytes: sectors.saturating_mul(1 << SECTOR_SHIFT),
        };
        let end = sector.checked_add(sectors).ok_or_else(outside)?;
        // A guest must not make the file longer, nor have room kept behind its end.
        let most = if self.read_only { self.sectors } else { self.sectors.min(self.end) };
        if end > most {
            return Err(outside());
        }
        // Below `self.sectors`, whose bytes, but for the last sector's, are a file's size.
        Ok(Extent { offset: sector << SECTOR_SHIFT, len: sectors << SECTOR_SHIFT })
    }

    /// Fills all of `into` from `sector` on.
    pub fn read(&self, sector: u64, into: &mut Segments) -> Result<(), RequestError> {
        let mut offset = self.extent(sector, whole_sectors(into.len())?)?.offset;
        let Some(file) = &self.file else {
            return zero(into);
        };
        while !into.is_empty() {
            match into.read_file(file.as_fd(), offset).map_err(RequestError::Host)? {
                0 => return Self::read_tail(into),
                n => offset += n as u64,
            }
        }
        Ok(())
    }

    /// The file has ended: the rest of its last sector is zeroes, but no more than that. A file
    /// that was cut under the guest's feet is an error, not zeroes.
    fn read_tail(into: &mut Segments) -> Result<(), RequestError> {
        let tail = ZEROES.get(..into.len()).filter(|tail| tail.len() < SECTOR);
        match tail {
            Some(tail) if into.write(tail) => Ok(()),
            _ => Err(RequestError::Host(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Writes all of `from` to `sector` and on.
    pub fn write(&self, sector: u64, from: &mut Segments) -> Result<(), RequestError> {
        let mut offset = self.extent(sector, whole_sectors(from.len())?)?.offset;
        while !from.is_empty() {
            match from.write_file(self.file()?.as_fd(), offset).map_err(RequestError::Host)? {
                0 => return Err(RequestError::Host(io::ErrorKind::WriteZero.into())),
                n => offset += n as u64,
            }
        }
        Ok(())
    }

    /// Makes all completed writes durable.
    pub fn flush(&self) -> Result<(), RequestError> {
        self.file()?.sync_data().map_err(RequestError::Host)
    }

    /// Gives the range's storage back to the host; it reads as zeroes.
    pub fn discard(&self, extent: Extent) -> Result<(), RequestError> {
        self.fallocate(extent, FallocateFlags::FALLOC_FL_PUNCH_HOLE)
    }

    /// Makes the range read as zeroes. `unmap` allows to give its storage back; without it, space
    /// for the range stays allocated where the host can do that.
    pub fn write_zeroes(&self, extent: Extent, unmap: bool) -> Result<(), RequestError> {
        let how = if unmap {
            FallocateFlags::FALLOC_FL_PUNCH_HOLE
        } else {
            FallocateFlags::FALLOC_FL_ZERO_RANGE
        };
        match self.fallocate(extent, how) {
            Err(RequestError::HostUnsupported) => self.write_zero_bytes(extent),
            done => done,
        }
    }

    fn write_zero_bytes(&self, extent: Extent) -> Result<(), RequestError> {
        let Extent { mut offset, mut len } = extent;
        while len > 0 {
            let chunk = usize::try_from(len).map_or(ZEROES.len(), |len| len.min(ZEROES.len()));
            let zeroes = ZEROES.get(..chunk).unwrap_or(&ZEROES);
            self.file()?.write_all_at(zeroes, offset).map_err(RequestError::Host)?;
            offset += chunk as u64;
            len -= chunk as u64;
        }
        Ok(())
    }

    fn fallocate(&self, extent: Extent, how: FallocateFlags) -> Result<(), RequestError> {
        if extent.len == 0 {
            return Ok(());
        }
        let number = |n: u64| libc::off_t::try_from(n).map_err(io::Error::other);
        let offset = number(extent.offset).map_err(RequestError::Host)?;
        let len = number(extent.len).map_err(RequestError::Host)?;
        loop {
            let flags = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            return match fallocate(self.file()?, flags, offset, len) {
                Ok(()) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => {
                    Err(RequestError::HostUnsupported)
                }
                Err(errno) => Err(RequestError::Host(errno.into())),
            };
        }
    }
}

fn zero(into: &mut Segments) -> Result<(), RequestError> {
    while !into.is_empty() {
        let zeroes = ZEROES.get(..into.len().min(ZEROES.len())).unwrap_or(&ZEROES);
        if !into.write(zeroes) {
            return Err(RequestError::Host(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(())
}

fn whole_sectors(bytes: usize) -> Result<u64, RequestError> {
    if bytes.is_multiple_of(SECTOR) {
        Ok((bytes >> SECTOR_SHIFT) as u64)
    } else {
        Err(RequestError::Unaligned(bytes))
    }
}
