//! Placing the initial RAM disk: at the end of low memory, behind the kernel.

use std::io;
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::kernel::LoadedKernel;
use crate::vmm::arch::x86_64::layout::{Range, low_memory_end};
use crate::vmm::host::Host;

/// Where kernels from before `initrd_addr_max` want the initial RAM disk to end.
const DEFAULT_LIMIT: u64 = 0x7fff_ffff;
const PAGE: u64 = 0x1000;

/// An initial RAM disk cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// the file cannot be opened
    #[error("cannot read the initial RAM disk {}", path.display())]
    Read {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// the file is empty
    #[error("the initial RAM disk {} is empty", path.display())]
    Empty {
        /// the file
        path: PathBuf,
    },
    /// there is no room for it beside the kernel
    #[error(
        "the initial RAM disk {} of {size} bytes does not fit {memory_mib} MiB of guest memory \
         beside the kernel",
        path.display()
    )]
    TooLarge {
        /// the file
        path: PathBuf,
        /// its size
        size: u64,
        /// size of guest memory
        memory_mib: u32,
    },
    /// the file cannot be read into guest memory, or has become shorter
    #[error("cannot load the initial RAM disk {}", path.display())]
    Load {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: GuestMemoryError,
    },
}

/// Loads the file at `path` and says where it lies.
pub fn load(
    host: &Host,
    path: &Path,
    memory: &GuestMemoryMmap,
    kernel: &LoadedKernel,
    memory_mib: u32,
) -> Result<Range, InitrdError> {
    let read = |source| InitrdError::Read { path: path.into(), source };
    let mut file = host.initrd(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size == 0 {
        return Err(InitrdError::Empty { path: path.into() });
    }
    let limit = kernel.header.map_or(DEFAULT_LIMIT, |header| header.initrd_addr_max.into());
    let too_large = || InitrdError::TooLarge { path: path.into(), size, memory_mib };
    let start = place(size, kernel.end, limit, low_memory_end(memory_mib)).ok_or_else(too_large)?;
    let bytes = usize::try_from(size).map_err(|_| too_large())?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut file, bytes)
        .map_err(|source| InitrdError::Load { path: path.into(), source })?;
    Ok(Range { start, size })
}

/// The highest page at which `size` bytes end by `memory_end` and at most at address `limit`, yet
/// begin behind `kernel_end`.
fn place(size: u64, kernel_end: u64, limit: u64, memory_end: u64) -> Option<u64> {
    let start = limit.saturating_add(1).min(memory_end).checked_sub(size)? & !(PAGE - 1);
    (start >= kernel_end).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lies_at_the_end_of_memory() {
        assert_eq!(place(0x1001, 0x20_0000, DEFAULT_LIMIT, 0x800_0000), Some(0x7ff_e000));
        assert_eq!(place(0x1000, 0x20_0000, 0x3ff_ffff, 0x800_0000), Some(0x3ff_f000));
    }

    #[test]
    fn never_overlaps_the_kernel() {
        assert_eq!(place(0x10_0000, 0x20_0000, DEFAULT_LIMIT, 0x28_0000), None);
        assert_eq!(place(u64::MAX, 0, DEFAULT_LIMIT, 0x28_0000), None);
    }

    proptest! {
        #[test]
        fn a_place_is_inside_its_bounds(
            size in 1u64..1 << 40, kernel: u32, limit: u32, end in 0u64..1 << 33
        ) {
            if let Some(start) = place(size, kernel.into(), limit.into(), end) {
                prop_assert!(start >= u64::from(kernel));
                prop_assert!(start + size <= end.min(u64::from(limit) + 1));
                prop_assert_eq!(start % PAGE, 0);
            }
        }
    }
}
