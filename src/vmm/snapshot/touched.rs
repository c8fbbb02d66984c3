//! The pages of guest memory that a start touches, so that later starts have them beforehand.
//!
//! A restored guest takes each page that it touches from its host by a fault: an exit from the guest,
//! and for a page that it writes to, a copy. The guests of one snapshot begin alike; what one has
//! touched is made ready for the next in a few system calls, before it runs. It is a hint alone: a
//! machine that has none, or a wrong one, runs as well.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::format::{self, FormatError};
use super::memory::{Extent, PAGE, are_in_order};
use super::own_pages::OwnPages;

const MAGIC: &[u8; 8] = b"AMPOULET";

/// Most bytes of it that are read.
const LIMIT: u64 = 256 << 10;

/// Bytes of a huge page.
const HUGE: u64 = 2 << 20;

/// Pages between two that were read which are as well mapped with them.
const GAP: u64 = 8 * PAGE as u64;

/// Most bytes that a start may write for it to be an example: each later one has them, used or not.
const MOST_WRITTEN: u64 = 16 << 20;

/// Bits of an entry of /proc/PID/pagemap.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;

/// What is known of the pages that a restored guest will touch.
#[derive(Debug, Default)]
pub enum Pages {
    /// Nothing.
    #[default]
    Unknown,
    /// Nothing, and it is to be found out: the guest has small pages alone.
    Watched,
    /// What an earlier one has touched.
    Known(Touched),
}

/// The pages that a start has touched, as ranges of the memory's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Each machine has its own of these.
    written: Vec<Extent>,
    /// These are the file's.
    read: Vec<Extent>,
}

impl Touched {
    /// What this process's guest has touched so far, where it has small pages alone.
    ///
    /// # Errors
    /// /proc/self/pagemap cannot be read, or it is too much to be worth it.
    pub fn of(memory: &GuestMemoryMmap, own: &OwnPages) -> io::Result<Self> {
        let mut touched = Self::default();
        let mut start = 0;
        for region in memory.iter() {
            let first = region.as_ptr() as u64 / PAGE as u64;
            let mut entries = vec![0; usize::try_from(region.len()).unwrap_or_default() / PAGE * 8];
            own.entries(first, &mut entries)?;
            for (page, entry) in (0u64..).zip(entries.as_chunks::<8>().0) {
                let at = start + page * PAGE as u64;
                match u64::from_le_bytes(*entry) & (PRESENT | OF_FILE) {
                    PRESENT => add(&mut touched.written, at, 0),
                    entry if entry & PRESENT != 0 => add(&mut touched.read, at, GAP),
                    _ => {}
                }
            }
            start += region.len();
        }
        if touched.written.iter().map(|extent| extent.len).sum::<u64>() > MOST_WRITTEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(touched)
    }

    /// Reads what [`Touched::write`] wrote, of a guest whose memory has `len` bytes.
    pub fn read(file: &File, len: u64) -> Result<Self, FormatError> {
        let mut bytes = Vec::new();
        let size = file.metadata().map_or(0, |metadata| metadata.len()).min(LIMIT);
        bytes.resize(usize::try_from(size).unwrap_or_default(), 0);
        file.read_exact_at(&mut bytes, 0)
            .map_err(|_| FormatError::Truncated { found: 0, expected: size })?;
        let touched: Self = format::open(MAGIC, &bytes)?;
        if are_in_order(&touched.written, len) && are_in_order(&touched.read, len) {
            Ok(touched)
        } else {
            Err(FormatError::Contents(postcard::Error::DeserializeBadEncoding))
        }
    }

    /// Writes it to an empty file.
    pub fn write(&self, file: &File) -> io::Result<()> {
        let bytes = format::seal(MAGIC, self).map_err(io::Error::other)?;
        file.write_all_at(&bytes, 0)
    }

    /// Copies what will be written to. Huge pages are for what no start touches: there the guest would
    /// use little of each.
    fn prepare(&self, memory: &GuestMemoryMmap) {
        let mut done = 0;
        for extent in &self.written {
            let from = (extent.offset / HUGE * HUGE).max(done);
            done = (extent.offset + extent.len).next_multiple_of(HUGE);
            if from < done {
                advise(memory, from..done, libc::MADV_NOHUGEPAGE);
            }
        }
        for extent in &self.written {
            let range = extent.offset..extent.offset + extent.len;
            advise(memory, range, libc::MADV_POPULATE_WRITE);
        }
    }

    /// Addresses and lengths of all of it, as the guest sees them.
    fn places(&self, memory: &GuestMemoryMmap) -> Vec<(u64, u64)> {
        let mut extents = [self.written.as_slice(), &self.read].concat();
        extents.sort_unstable_by_key(|extent| extent.offset);
        extents.dedup_by(|next, last| {
            let end = last.offset + last.len;
            let joined = next.offset <= end + GAP;
            if joined {
                last.len = end.max(next.offset + next.len) - last.offset;
            }
            joined
        });
        let mut places = Vec::with_capacity(extents.len());
        for extent in extents {
            for_each_part(
                memory,
                extent.offset..extent.offset + extent.len,
                |region, from, len| {
                    places.push((region.start_addr().0 + from, len));
                },
            );
        }
        places
    }
}

impl Pages {
    /// Makes guest memory ready that is mapped and not in use yet.
    pub fn prepare(&self, memory: &GuestMemoryMmap) {
        match self {
            Self::Unknown => {}
            Self::Watched => advise(memory, 0..u64::MAX, libc::MADV_NOHUGEPAGE),
            Self::Known(touched) => touched.prepare(memory),
        }
    }

    /// Addresses and lengths of what the guest is to have mapped before it runs.
    pub fn places(&self, memory: &GuestMemoryMmap) -> Vec<(u64, u64)> {
        match self {
            Self::Known(touched) => touched.places(memory),
            Self::Unknown | Self::Watched => Vec::new(),
        }
    }
}

/// Adds a page to ranges in ascending order, to the last one where that ends within `gap` of it.
fn add(extents: &mut Vec<Extent>, at: u64, gap: u64) {
    let page = PAGE as u64;
    match extents.last_mut() {
        Some(last) if at - (last.offset + last.len) <= gap => last.len = at + page - last.offset,
        _ => extents.push(Extent { offset: at, len: page }),
    }
}

/// Calls `each` with every part of a range of the memory's file: its region, its start there, and
/// its length.
fn for_each_part(
    memory: &GuestMemoryMmap,
    range: Range<u64>,
    mut each: impl FnMut(&GuestRegionMmap, u64, u64),
) {
    let mut start = 0;
    for region in memory.iter() {
        let end = start + region.len();
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            each(region, from - start, to - from);
        }
        start = end;
    }
}

/// Advice for a range; a host that does not take it does as it would have done.
fn advise(memory: &GuestMemoryMmap, range: Range<u64>, advice: libc::c_int) {
    for_each_part(memory, range, |region, from, len| {
        let (Ok(from), Ok(len)) = (usize::try_from(from), usize::try_from(len)) else { return };
        // SAFETY: the range lies within the region's mapping (for_each_part), and neither kind of
        // advice changes what is in it.
        unsafe { libc::madvise(region.as_ptr().add(from).cast(), len, advice) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::memory::allocate;
    use crate::vmm::snapshot::memory::MemoryState;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    fn extents(ranges: &[(u64, u64)]) -> Vec<Extent> {
        ranges.iter().map(|&(offset, len)| Extent { offset, len }).collect()
    }

    #[test]
    fn what_was_read_is_told_from_what_was_written_and_is_ready_for_the_next() {
        let memory = allocate(16).unwrap();
        for at in 0..512u64 {
            memory.write_obj(at + 1, GuestAddress(at * 4096)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        let state = MemoryState::write(&memory, &file, false, &OwnPages::open().unwrap()).unwrap();

        let first = state.map(16, &file).unwrap();
        Pages::Watched.prepare(&first);
        first.write_obj(9u64, GuestAddress(0x3000)).unwrap();
        first.write_obj(9u64, GuestAddress(0x4000)).unwrap();
        first.write_obj(9u64, GuestAddress(0x80_0000)).unwrap();
        assert_eq!(first.read_obj::<u64>(GuestAddress(0x10_0000)).unwrap(), 257);
        let touched = Touched::of(&first, &OwnPages::open().unwrap()).unwrap();
        assert_eq!(touched.written, extents(&[(0x3000, 0x2000), (0x80_0000, 0x1000)]));
        // The host maps neighbours with it.
        let read = |at| touched.read.iter().any(|e| (e.offset..e.offset + e.len).contains(&at));
        assert!(read(0x10_0000) && !read(0x20_0000));

        let second = state.map(16, &file).unwrap();
        let pages = Pages::Known(touched.clone());
        pages.prepare(&second);
        assert_eq!(
            Touched::of(&second, &OwnPages::open().unwrap()).unwrap().written,
            touched.written
        );
        let places = pages.places(&second);
        let mapped = |at| places.iter().any(|(from, len)| (*from..from + len).contains(&at));
        assert!([0x3000, 0x4fff, 0x10_0000, 0x80_0000].into_iter().all(mapped));
        let value = |at| second.read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!([0x3000, 0x4000, 0x80_0000].map(value), [4, 5, 0]);
    }

    #[test]
    fn it_is_read_as_it_was_written_or_not_at_all() {
        let touched = Touched { written: extents(&[(0, 4096)]), read: extents(&[(8192, 4096)]) };
        let file = tempfile::tempfile().unwrap();
        touched.write(&file).unwrap();
        assert_eq!(Touched::read(&file, 16 << 20).unwrap(), touched);
        // Of another guest.
        assert!(Touched::read(&file, 4096).is_err());
        file.write_all_at(b"x", 20).unwrap();
        assert!(matches!(Touched::read(&file, 16 << 20), Err(FormatError::Checksum)));
        assert!(Touched::read(&tempfile::tempfile().unwrap(), 16 << 20).is_err());
    }

    proptest! {
        #[test]
        fn any_ranges_are_refused_or_prepared(
            ranges in prop::collection::vec((0u64..5000, 0u64..50), 0..6),
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(at, len)| (at * 4096, len * 4096)).collect();
            let touched = Touched { written: extents(&ranges), read: extents(&ranges) };
            let file = tempfile::tempfile().unwrap();
            touched.write(&file).unwrap();
            let memory = allocate(16).unwrap();
            if let Ok(touched) = Touched::read(&file, 16 << 20) {
                let pages = Pages::Known(touched);
                pages.prepare(&memory);
                prop_assert!(pages.places(&memory).iter().all(|(at, len)| at + len <= 16 << 20));
            }
        }
    }
}
