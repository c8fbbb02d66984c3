//! Guest memory: anonymous, private, not reserved, so that what the guest never touches costs
//! nothing; and never part of a core dump, which is also how its mappings are told from the
//! monitor's own (`VmFlags: dd` in `/proc/PID/smaps`).

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
        .and_then(|memory| keep_out_of_dumps(&memory).map(|()| memory))
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

/// Marks all mappings of guest memory, whatever they are of, as no part of a core dump.
///
/// # Errors
/// A region is not mapped as a whole.
pub fn keep_out_of_dumps(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        let size = usize::try_from(region.len()).map_err(io::Error::other)?;
        // SAFETY: the region is mapped, and its content stays as it is.
        if unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_DONTDUMP) } != 0 {
            return Err(io::Error::last_os_error());
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
    fn more_than_the_host_has_is_refused() {
        let error = allocate(u32::MAX).unwrap_err();
        assert!(matches!(error, MemoryError::MoreThanHost { wanted: u32::MAX, .. }));
    }
}
