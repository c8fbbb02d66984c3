//! Guest memory as a sparse file, and that file as guest memory.
//!
//! In the file the ranges of guest memory lie one behind the other. What is zero is a hole, and is
//! anonymous memory in a restored machine: mapping it from the file would make the page cache grow
//! by every page that a guest uses for the first time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use super::own_pages::OwnPages;
use crate::vmm::memory;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// Bytes of zeros between two written ranges that are not worth a mapping of their own.
const GAP: u64 = 128 << 10;

/// Most ranges that a snapshot has: each is a mapping, of which a process has 65,530 by default.
const MAX_EXTENTS: usize = 16 << 10;

/// Bytes that are read at once to verify a memory.
const CHUNK: usize = 256 << 10;

/// Guest memory cannot be written to a snapshot, or taken from one.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// not as long as the guest's memory
    #[error("it has {found} bytes, the guest's memory {expected}")]
    Length {
        /// bytes of the file
        found: u64,
        /// bytes of the guest's memory
        expected: u64,
    },
    /// ranges that cannot be
    #[error("its ranges are not in order, or beyond its end")]
    Extents,
    /// changed since it was written
    #[error("it is damaged: its checksum is wrong")]
    Checksum,
    /// so fragmented that a process could not map it
    #[error("it is in more than {MAX_EXTENTS} pieces")]
    TooManyExtents,
    /// the host's file system or memory
    #[error("cannot {what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// guest memory itself
    #[error(transparent)]
    Allocate(#[from] memory::MemoryError),
}

fn host(what: &'static str) -> impl Fn(io::Error) -> MemoryError {
    move |source| MemoryError::Host { what, source }
}

/// A range of the memory's file that is not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Extent {
    fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)
    }
}

/// Whether these are whole pages of a file of `len` bytes, in ascending order.
pub(super) fn are_in_order(extents: &[Extent], len: u64) -> bool {
    let page = PAGE as u64;
    let mut from = 0;
    extents.iter().all(|extent| {
        let Some(end) = extent.end().filter(|end| *end <= len) else { return false };
        let aligned = extent.offset.is_multiple_of(page) && extent.len.is_multiple_of(page);
        let fits = aligned && extent.len > 0 && extent.offset >= from;
        from = end;
        fits
    })
}

/// What is known of a memory's file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryState {
    /// In ascending order.
    extents: Vec<Extent>,
    /// CRC-32 of the extents' bytes, where it was made.
    checksum: Option<u32>,
}

impl MemoryState {
    /// Looks whether this can be the memory of a guest of `mib` MiB in a file of `len` bytes.
    pub fn check(&self, mib: u32, len: u64) -> Result<(), MemoryError> {
        let expected = u64::from(mib) << 20;
        if len != expected {
            return Err(MemoryError::Length { found: len, expected });
        }
        if self.extents.len() > MAX_EXTENTS {
            return Err(MemoryError::TooManyExtents);
        }
        if are_in_order(&self.extents, len) { Ok(()) } else { Err(MemoryError::Extents) }
    }

    /// Compares the whole file with what was written.
    pub fn verify(&self, file: &File) -> Result<(), MemoryError> {
        let mut buffer = vec![0; CHUNK];
        let mut hasher = crc32fast::Hasher::new();
        for extent in &self.extents {
            let (mut at, end) = (extent.offset, extent.end().unwrap_or(extent.offset));
            while at < end {
                let len = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
                let chunk = buffer.get_mut(..len).unwrap_or_default();
                file.read_exact_at(chunk, at).map_err(host("read the memory's file"))?;
                hasher.update(chunk);
                at += len as u64;
            }
        }
        match self.checksum {
            Some(checksum) if checksum == hasher.finalize() => Ok(()),
            _ => Err(MemoryError::Checksum),
        }
    }

    /// Writes guest memory to an empty file. Nobody may write to the memory meanwhile. What `own`
    /// tells was never touched is left out.
    ///
    /// With `checksum`, [`MemoryState::verify`] is possible later.
    pub fn write(
        memory: &GuestMemoryMmap,
        file: &File,
        checksum: bool,
        own: &OwnPages,
    ) -> Result<Self, MemoryError> {
        let mut writer = Writer { file, extents: Vec::new() };
        let mut offset = 0;
        for region in memory.iter() {
            writer.write_region(region, offset, own)?;
            offset += region.len();
        }
        file.set_len(offset).map_err(host("make the memory's file as long as the memory"))?;
        let mut state = Self { extents: writer.extents, checksum: None };
        if state.extents.len() > MAX_EXTENTS {
            return Err(MemoryError::TooManyExtents);
        }
        if checksum {
            state.checksum = Some(state.checksum_of(memory));
        }
        Ok(state)
    }

    fn checksum_of(&self, memory: &GuestMemoryMmap) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let mut start = 0;
        for region in memory.iter() {
            let bytes = bytes_of(region);
            // No extent crosses the end of a region: Writer.
            for extent in
                self.extents.iter().filter(|e| (start..start + region.len()).contains(&e.offset))
            {
                let from = usize::try_from(extent.offset - start).unwrap_or(usize::MAX);
                let to = from.saturating_add(usize::try_from(extent.len).unwrap_or(usize::MAX));
                hasher.update(bytes.get(from..to).unwrap_or_default());
            }
            start += region.len();
        }
        hasher.finalize()
    }

    /// Guest memory of `mib` MiB with the contents of `file`, whose pages it shares until it writes
    /// to them. To be [checked](MemoryState::check) before.
    pub fn map(&self, mib: u32, file: &File) -> Result<GuestMemoryMmap, MemoryError> {
        let memory = memory::allocate(mib)?;
        let mut start = 0;
        for region in memory.iter() {
            let end = start + region.len();
            for extent in &self.extents {
                // A region's part of the extent, which a foreign snapshot may have across two.
                let from = extent.offset.max(start);
                let to = extent.end().unwrap_or(from).min(end);
                if from < to {
                    overlay(region, from - start, to - from, file, from)
                        .map_err(host("map the memory's file"))?;
                }
            }
            start = end;
        }
        // The mappings of the file are new ones.
        memory::keep_apart(&memory).map_err(host("keep the guest's memory apart"))?;
        Ok(memory)
    }
}

/// Maps `len` bytes of the file over a part of the region.
fn overlay(
    region: &GuestRegionMmap,
    into: u64,
    len: u64,
    file: &File,
    offset: u64,
) -> io::Result<()> {
    if into.checked_add(len).is_none_or(|end| end > region.len()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let size = usize::try_from(len).map_err(io::Error::other)?;
    let into = usize::try_from(into).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the range lies in the region's own mapping (checked above), to which no reference
    // exists yet; it stays mapped, readable and writable.
    let mapped = unsafe {
        libc::mmap(
            region.as_ptr().add(into).cast(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED { Err(Errno::last().into()) } else { Ok(()) }
}

/// A region's memory, which nobody writes to.
fn bytes_of(region: &GuestRegionMmap) -> &[u8] {
    let len = usize::try_from(region.len()).unwrap_or_default();
    // SAFETY: the region is mapped readable for as long as it is borrowed; who calls for a snapshot
    // has stopped everyone who could write to it (MemoryState::write).
    unsafe { std::slice::from_raw_parts(region.as_ptr(), len) }
}

struct Writer<'a> {
    file: &'a File,
    extents: Vec<Extent>,
}

impl Writer<'_> {
    /// Writes the pages of a region that are not zero, the region's start at `offset` in the file.
    fn write_region(
        &mut self,
        region: &GuestRegionMmap,
        offset: u64,
        own: &OwnPages,
    ) -> Result<(), MemoryError> {
        let bytes = bytes_of(region);
        let first_extent = self.extents.len();
        let mut run: Option<std::ops::Range<usize>> = None;
        for_each_used_page(region, own, |page| {
            let at = page * PAGE;
            let Some(content) = bytes.get(at..at + PAGE) else { return Ok(()) };
            if content == [0; PAGE] {
                return Ok(());
            }
            match &mut run {
                Some(run) if run.end == at => run.end += PAGE,
                _ => {
                    if let Some(done) = run.replace(at..at + PAGE) {
                        self.write_run(bytes, done, offset, first_extent)?;
                    }
                }
            }
            Ok(())
        })?;
        run.map_or(Ok(()), |run| self.write_run(bytes, run, offset, first_extent))
    }

    fn write_run(
        &mut self,
        bytes: &[u8],
        run: std::ops::Range<usize>,
        offset: u64,
        first_extent: usize,
    ) -> Result<(), MemoryError> {
        let at = offset + run.start as u64;
        let end = offset + run.end as u64;
        let run = bytes.get(run).unwrap_or_default();
        self.file.write_all_at(run, at).map_err(host("write the memory's file"))?;
        // Not together with one of another region: they are mapped apart.
        match self.extents.get_mut(first_extent..).and_then(<[_]>::last_mut) {
            Some(last) if last.end().is_some_and(|last| at - last <= GAP) => {
                last.len = end - last.offset;
            }
            _ => self.extents.push(Extent { offset: at, len: end - at }),
        }
        Ok(())
    }
}

/// Bits of an entry of /proc/PID/pagemap.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;

/// Calls `each` with the index of every page of a region that may hold something: those that were
/// touched, and those that a file is mapped to.
fn for_each_used_page(
    region: &GuestRegionMmap,
    own: &OwnPages,
    mut each: impl FnMut(usize) -> Result<(), MemoryError>,
) -> Result<(), MemoryError> {
    let pages = usize::try_from(region.len()).unwrap_or_default() / PAGE;
    let first = region.as_ptr() as usize / PAGE;
    let mapped = mapped_pages(region, own)?;
    let mut mapped = mapped.iter();
    let mut next = mapped.next();
    let mut entries = vec![0; CHUNK];
    let mut page = 0;
    while page < pages {
        let len = (pages - page).saturating_mul(8).min(CHUNK);
        let chunk = entries.get_mut(..len).unwrap_or_default();
        own.entries((first + page) as u64, chunk)
            .map_err(host("see which pages of the guest's memory are in use"))?;
        for entry in chunk.as_chunks::<8>().0 {
            while next.is_some_and(|range| range.end <= page) {
                next = mapped.next();
            }
            let of_file = next.is_some_and(|range| range.contains(&page));
            if of_file || u64::from_le_bytes(*entry) & (PRESENT | SWAPPED) != 0 {
                each(page)?;
            }
            page += 1;
        }
    }
    Ok(())
}

/// The pages of a region that a file is mapped to, from this process's own list of mappings.
fn mapped_pages(
    region: &GuestRegionMmap,
    own: &OwnPages,
) -> Result<Vec<std::ops::Range<usize>>, MemoryError> {
    let maps = own.maps().map_err(host("see what the guest's memory is mapped from"))?;
    let start = region.as_ptr() as usize;
    let end = start.saturating_add(usize::try_from(region.len()).unwrap_or_default());
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let inode = words.nth(3)?;
        let from = usize::from_str_radix(from, 16).ok()?.max(start);
        let to = usize::from_str_radix(to, 16).ok()?.min(end);
        (from < to && inode != "0").then(|| (from - start) / PAGE..(to - start) / PAGE)
    };
    Ok(maps.lines().filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    fn read(memory: &GuestMemoryMmap, at: u64) -> u64 {
        memory.read_obj(GuestAddress(at)).unwrap()
    }

    fn written(memory: &GuestMemoryMmap) -> (File, MemoryState) {
        let file = tempfile::tempfile().unwrap();
        let state = MemoryState::write(memory, &file, true, &OwnPages::open().unwrap()).unwrap();
        (file, state)
    }

    #[test]
    fn what_was_written_is_mapped_and_stays_untouched() {
        let memory = memory::allocate(16).unwrap();
        for (at, value) in [(0x1000, 1u64), (0x1ff8, 2), (0x80_0000, 3), (0xff_fff8, 4)] {
            memory.write_obj(value, GuestAddress(at)).unwrap();
        }
        // Touched, but zero.
        memory.write_obj(0u64, GuestAddress(0x40_0000)).unwrap();
        let (file, state) = written(&memory);
        assert_eq!(state.extents.len(), 3);
        state.check(16, file.metadata().unwrap().len()).unwrap();
        state.verify(&file).unwrap();

        let first = state.map(16, &file).unwrap();
        let second = state.map(16, &file).unwrap();
        first.write_obj(9u64, GuestAddress(0x1000)).unwrap();
        first.write_obj(9u64, GuestAddress(0x50_0000)).unwrap();
        assert_eq!((read(&first, 0x1000), read(&second, 0x1000)), (9, 1));
        assert_eq!((read(&second, 0x1ff8), read(&second, 0xff_fff8)), (2, 4));
        assert_eq!((read(&first, 0x50_0000), read(&second, 0x50_0000)), (9, 0));

        // A snapshot of what was restored has the file's pages, those read or not, and the new ones.
        let (file, state) = written(&first);
        let third = state.map(16, &file).unwrap();
        assert_eq!([0x1000, 0x1ff8, 0x80_0000, 0x50_0000].map(|at| read(&third, at)), [9, 2, 3, 9]);
    }

    #[test]
    fn restored_memory_is_no_part_of_a_core_dump() {
        let memory = memory::allocate(16).unwrap();
        memory.write_obj(1u64, GuestAddress(0x40_0000)).unwrap();
        let (file, state) = written(&memory);
        let restored = state.map(16, &file).unwrap();
        let region = restored.iter().next().unwrap().as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // The file's mapping has an anonymous one on each side.
        for at in [region, region + 0x40_0000, region + 0x40_1000] {
            let holds = |line: &str| {
                let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
                let address = |text| usize::from_str_radix(text, 16).ok();
                range.is_some_and(|(from, to)| {
                    address(from).is_some_and(|from| from <= at)
                        && address(to).is_some_and(|to| at < to)
                })
            };
            let mut lines = smaps.lines().skip_while(|line| !holds(line));
            let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
            assert!(flags.contains(" dd"), "{flags}");
        }
    }

    #[test]
    fn an_altered_file_is_refused() {
        let memory = memory::allocate(16).unwrap();
        memory.write_obj(7u64, GuestAddress(0x3000)).unwrap();
        let (file, state) = written(&memory);
        file.write_all_at(b"x", 0x3800).unwrap();
        assert!(matches!(state.verify(&file), Err(MemoryError::Checksum)));
        let len = file.metadata().unwrap().len();
        assert!(matches!(state.check(16, len - 1), Err(MemoryError::Length { .. })));
    }

    proptest! {
        #[test]
        fn any_extents_are_refused_or_mapped(
            extents in prop::collection::vec((0u64..5000, 0u64..5000), 0..6),
            aligned in any::<bool>(),
        ) {
            let unit = if aligned { PAGE as u64 } else { 1 };
            let extents = extents
                .into_iter()
                .map(|(offset, len)| Extent { offset: offset * unit, len: len * unit })
                .collect();
            let state = MemoryState { extents, checksum: None };
            let file = tempfile::tempfile().unwrap();
            file.set_len(16 << 20).unwrap();
            if state.check(16, 16 << 20).is_ok() {
                prop_assert!(state.map(16, &file).is_ok());
            }
        }
    }
}
