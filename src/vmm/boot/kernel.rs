//! Loading a kernel file: what it is, where it goes, where it is entered.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult, PvhBootCapability};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::vmm::arch::x86_64::layout::{HIGH_MEMORY, low_memory_end};
use crate::vmm::arch::x86_64::regs::Entry;
use crate::vmm::host::Host;

/// `xloadflags` bit 0: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry point from where a bzImage is loaded.
const ENTRY_64: u64 = 0x200;
/// First protocol version with `pref_address` and `init_size`.
const PROTOCOL_2_10: u16 = 0x020a;
/// Bytes from a bzImage's start to the `HdrS` mark, and the mark.
const HDRS: usize = 0x202;

/// Bytes of a kernel file that tell its kind.
const HEAD: usize = HDRS + 4;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS_64: u8 = 2;
const ELF_MACHINE_X86_64: [u8; 2] = [62, 0];

/// A kernel file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// the file cannot be opened or read
    #[error("cannot read the kernel {}", path.display())]
    Read {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// neither an ELF file for x86-64 nor a bzImage
    #[error("{} is not a kernel: neither an x86-64 ELF file nor a bzImage", path.display())]
    NotAKernel {
        /// the file
        path: PathBuf,
    },
    /// a bzImage without the 64-bit entry point or too old to say how much memory it takes
    #[error("the kernel {} has no 64-bit entry point", path.display())]
    Not64Bit {
        /// the file
        path: PathBuf,
    },
    /// damaged, cut short, or larger than guest memory
    #[error("the kernel {} cannot be loaded into {memory_mib} MiB of guest memory", path.display())]
    Load {
        /// the file
        path: PathBuf,
        /// size of guest memory
        memory_mib: u32,
        /// why
        #[source]
        source: linux_loader::loader::Error,
    },
    /// the kernel with the memory that it takes at start does not fit
    #[error(
        "the kernel {} does not fit {memory_mib} MiB of guest memory: it ends at {end:#x}",
        path.display()
    )]
    TooLarge {
        /// the file
        path: PathBuf,
        /// size of guest memory
        memory_mib: u32,
        /// where the kernel would end
        end: u64,
    },
    /// the entry point is not inside what was loaded
    #[error("the kernel {} has its entry point at {entry:#x}, outside of it", path.display())]
    Entry {
        /// the file
        path: PathBuf,
        /// where the kernel wants to be entered
        entry: u64,
    },
}

/// A kernel in guest memory.
pub struct LoadedKernel {
    /// How the boot CPU enters it.
    pub entry: Entry,
    /// First address behind it and the memory that it takes before it knows of other ranges.
    pub end: u64,
    /// Of a bzImage: its setup header.
    pub header: Option<setup_header>,
}

/// Loads the kernel file at `path`.
pub fn load(
    host: &Host,
    path: &Path,
    memory: &GuestMemoryMmap,
    memory_mib: u32,
) -> Result<LoadedKernel, KernelError> {
    let read = |source| KernelError::Read { path: path.into(), source };
    let mut file = host.kernel(path).map_err(read)?;
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(read)?;
    let kernel = match kind(&head) {
        Some(Kind::Elf) => load_elf(path, &mut file, memory, memory_mib)?,
        Some(Kind::BzImage) => load_bzimage(path, &mut file, memory, memory_mib)?,
        None => return Err(KernelError::NotAKernel { path: path.into() }),
    };
    if kernel.end > low_memory_end(memory_mib) {
        return Err(KernelError::TooLarge { path: path.into(), memory_mib, end: kernel.end });
    }
    Ok(kernel)
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Elf,
    BzImage,
}

/// What a file that begins with `head` is.
fn kind(head: &[u8]) -> Option<Kind> {
    if head.starts_with(ELF_MAGIC) {
        let fits = head.get(4) == Some(&ELF_CLASS_64)
            && head.get(18..20) == Some(ELF_MACHINE_X86_64.as_slice());
        return fits.then_some(Kind::Elf);
    }
    (head.get(HDRS..) == Some(b"HdrS".as_slice())).then_some(Kind::BzImage)
}

fn load_elf(
    path: &Path,
    file: &mut File,
    memory: &GuestMemoryMmap,
    memory_mib: u32,
) -> Result<LoadedKernel, KernelError> {
    let loaded = loaded::<Elf>(path, file, memory, memory_mib, None)?;
    let (entry, address) = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(GuestAddress(address)) => {
            // The note holds 32 bits.
            (Entry::Pvh(u32::try_from(address).unwrap_or(u32::MAX)), address)
        }
        _ => (Entry::Linux64(loaded.kernel_load.0), loaded.kernel_load.0),
    };
    if !(HIGH_MEMORY..loaded.kernel_end).contains(&address) {
        return Err(KernelError::Entry { path: path.into(), entry: address });
    }
    Ok(LoadedKernel { entry, end: loaded.kernel_end, header: None })
}

fn load_bzimage(
    path: &Path,
    file: &mut File,
    memory: &GuestMemoryMmap,
    memory_mib: u32,
) -> Result<LoadedKernel, KernelError> {
    let header = header_of(path, file)?;
    // At its preferred address the kernel need not be moved before it is unpacked.
    let load_at = header.pref_address.max(HIGH_MEMORY);
    let too_large = |end| KernelError::TooLarge { path: path.into(), memory_mib, end };
    let end = load_at.checked_add(header.init_size.into()).ok_or_else(|| too_large(u64::MAX))?;
    if end > low_memory_end(memory_mib) {
        return Err(too_large(end));
    }
    let loaded = loaded::<BzImage>(path, file, memory, memory_mib, Some(load_at))?;
    Ok(LoadedKernel {
        entry: Entry::Linux64(load_at + ENTRY_64),
        end: end.max(loaded.kernel_end),
        header: loaded.setup_header,
    })
}

/// Offset of the setup header in a bzImage.
const SETUP_HEADER: u64 = 0x1f1;

fn header_of(path: &Path, file: &File) -> Result<setup_header, KernelError> {
    use std::os::unix::fs::FileExt;
    use vm_memory::ByteValued;

    let mut header = setup_header::default();
    file.read_exact_at(header.as_mut_slice(), SETUP_HEADER)
        .map_err(|source| KernelError::Read { path: path.into(), source })?;
    if header.version < PROTOCOL_2_10 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::Not64Bit { path: path.into() });
    }
    Ok(header)
}

fn loaded<L: KernelLoader>(
    path: &Path,
    file: &mut File,
    memory: &GuestMemoryMmap,
    memory_mib: u32,
    load_at: Option<u64>,
) -> Result<KernelLoaderResult, KernelError> {
    L::load(memory, load_at.map(GuestAddress), file, None).map_err(|source| KernelError::Load {
        path: path.into(),
        memory_mib,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::memory::allocate;
    use crate::vmm::test_kernel::TestKernel;
    use proptest::prelude::*;
    use std::io::Write;

    fn load_bytes(bytes: &[u8]) -> Result<LoadedKernel, KernelError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        load(&Host::default(), file.path(), &allocate(16).unwrap(), 16)
    }

    #[test]
    fn elf_with_the_note_is_entered_by_pvh() {
        let kernel = load_bytes(&TestKernel::pvh(&[0xf4]).image).unwrap();
        assert_eq!(kernel.entry, Entry::Pvh(0x10_0000));
        assert!(kernel.header.is_none());
    }

    #[test]
    fn elf_without_the_note_is_entered_in_64_bit_mode() {
        let kernel = load_bytes(&TestKernel::linux64(&[0xf4]).image).unwrap();
        assert_eq!(kernel.entry, Entry::Linux64(0x10_0000));
    }

    #[test]
    fn other_files_are_no_kernels() {
        let arm = {
            let mut image = TestKernel::pvh(&[0xf4]).image;
            image[18] = 183;
            image
        };
        for bytes in [b"".as_slice(), b"MZ", b"\x7fELF", b"#!/bin/sh\n", &arm] {
            assert!(matches!(load_bytes(bytes), Err(KernelError::NotAKernel { .. })));
        }
    }

    #[test]
    fn a_kernel_above_guest_memory_is_refused() {
        let mut image = TestKernel::linux64(&[0xf4]).image;
        TestKernel::set_memory_size(&mut image, 1 << 30);
        assert!(matches!(load_bytes(&image), Err(KernelError::TooLarge { .. })));
    }

    #[test]
    fn an_entry_outside_the_kernel_is_refused() {
        let mut image = TestKernel::linux64(&[0xf4]).image;
        image[24..32].copy_from_slice(&0x5000_0000u64.to_le_bytes());
        assert!(matches!(load_bytes(&image), Err(KernelError::Entry { entry: 0x5000_0000, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_kernels_are_errors_or_load(at in 0usize..200, byte: u8, cut in 0usize..400) {
            let mut image = TestKernel::pvh(&[0xf4; 64]).image;
            image[at] = byte;
            image.truncate(cut.max(1));
            if let Ok(kernel) = load_bytes(&image) {
                prop_assert!(kernel.end <= 16 << 20);
            }
        }
    }
}
