//! Guest memory: anonymous, private, not reserved, so that what the guest never touches costs
//! nothing; never merged with other pages of the host; and never part of a core dump, which is also
//! how its mappings are told from the monitor's own (`VmFlags: dd` in `/proc/PID/smaps`).

use std::io;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::vmm::arch::x86_64::layout::{Range, memory_ranges};

/// Guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// the guest would be killed while it boots
    #[error("{wanted} MiB of guest memory are more than the host's {host} MiB of memory and swap")]
    MoreThanHost {
        /// MiB asked for
        wanted: u32,
        /// MiB that the host has in all
        host: u64,
    },
    /// the host's size is not known
    #[error("cannot read how much memory the host has")]
    Sysinfo(#[source] nix::Error),
    /// the kernel refuses the mapping (RLIMIT_AS, strict overcommit)
    #[error("cannot map {wanted} MiB of guest memory")]
    Map {
        /// MiB asked for
        wanted: u32,
        /// why
        #[source]
        source: io::Error,
    },
}

/// Maps `mib` MiB of guest memory, around the hole for devices.
pub fn allocate(mib: u32) -> Result<GuestMemoryMmap, MemoryError> {
    let info = nix::sys::sysinfo::sysinfo().map_err(MemoryError::Sysinfo)?;
    let host = info.ram_total().saturating_add(info.swap_total()) >> 20;
    if u64::from(mib) > host {
        return Err(MemoryError::MoreThanHost { wanted: mib, host });
    }
    memory_ranges(mib)
        .into_iter()
        .map(map)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|regions| GuestMemoryMmap::from_regions(regions).map_err(io::Error::other))
        .and_then(|memory| keep_apart(&memory).map(|()| memory))
        .map_err(|source| MemoryError::Map { wanted: mib, source })
}

fn map(range: Range) -> io::Result<GuestRegionMmap> {
    let size = usize::try_from(range.size).map_err(io::Error::other)?;
    let mapping = MmapRegion::new(size).map_err(|e| match e {
        MmapRegionError::Mmap(e) => e,
        other => io::Error::other(other),
    })?;
    GuestRegionMmap::new(mapping, GuestAddress(range.start))
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Marks all mappings of guest memory, whatever they are of, as no part of a core dump, and as
/// nothing that the host may merge with equal pages: a process can inherit the wish for that
/// (`PR_SET_MEMORY_MERGE`), and merged pages tell one guest what is in another.
///
/// # Errors
/// A region is not mapped as a whole.
pub fn keep_apart(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        let size = usize::try_from(region.len()).map_err(io::Error::other)?;
        // SAFETY: the region is mapped, and its content stays as it is.
        if unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_DONTDUMP) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A kernel that does not know it merges nothing.
        // SAFETY: as before.
        if unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_UNMERGEABLE) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_mapped() {
        let memory = allocate(64).unwrap();
        assert_eq!(memory.last_addr(), GuestAddress((64 << 20) - 1));
    }

    #[test]
    fn pages_are_not_merged_though_the_process_wants_it() {
        const PR_SET_MEMORY_MERGE: libc::c_int = 67;
        // SAFETY: of this process, only what the kernel does in the background changes.
        if unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) } != 0 {
            println!("skipped: pages_are_not_merged: needs a kernel with KSM (6.4), and root");
            return;
        }
        let flags = |at: *const u8| {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = smaps.lines().skip_while(|line| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let parse = |text| usize::from_str_radix(text, 16);
                !range.is_some_and(|(start, end)| {
                    parse(start).is_ok_and(|start| start <= at as usize)
                        && parse(end).is_ok_and(|end| (at as usize) < end)
                })
            });
            lines.find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
        };
        let plain = MmapRegion::<()>::new(1 << 20).unwrap();
        assert!(flags(plain.as_ptr()).contains(" mg"), "{}", flags(plain.as_ptr()));
        let memory = allocate(64).unwrap();
        let guest = flags(memory.iter().next().unwrap().as_ptr());
        assert!(!guest.contains(" mg") && guest.contains(" dd"), "{guest}");
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        let error = allocate(u32::MAX).unwrap_err();
        assert!(matches!(error, MemoryError::MoreThanHost { wanted: u32::MAX, .. }));
    }
}
