//! The zero page: what a kernel entered by the Linux boot protocol is told
//! (Documentation/arch/x86/boot.rst and zero-page.rst of Linux).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Initrd, write as written};
use crate::vmm::arch::x86_64::layout::{
    CMDLINE, CMDLINE_MAX, HIGH_MEMORY, ZERO_PAGE, usable_ranges,
};

const BOOT_FLAG: u16 = 0xaa55;
const HDRS: u32 = 0x5372_6448;
const PROTOCOL_2_15: u16 = 0x020f;
/// A loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
/// E820_TYPE_RAM.
const RAM: u32 = 1;

/// Writes the zero page; `header` is a bzImage's own, an ELF kernel has none.
pub fn write(
    memory: &GuestMemoryMmap,
    memory_mib: u32,
    initrd: Initrd,
    header: Option<setup_header>,
) -> Result<(), BootError> {
    let mut params = boot_params { hdr: header.unwrap_or_else(elf_header), ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.loadflags |= LOADED_HIGH;
    params.hdr.cmd_line_ptr = low(CMDLINE);
    params.hdr.cmdline_size = low(CMDLINE_MAX as u64 - 1);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low(initrd.start);
        params.hdr.ramdisk_size = low(initrd.size);
    }
    let mut entries = 0;
    let mut table = params.e820_table;
    for (slot, range) in table.iter_mut().zip(usable_ranges(memory_mib)) {
        *slot = boot_e820_entry { addr: range.start, size: range.size, type_: RAM };
        entries += 1;
    }
    params.e820_table = table;
    params.e820_entries = entries;
    written("the zero page", memory.write_obj(params, GuestAddress(ZERO_PAGE)))
}

fn elf_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HDRS,
        version: PROTOCOL_2_15,
        kernel_alignment: low(HIGH_MEMORY),
        ..Default::default()
    }
}

/// An address or size below 4 GiB, where everything lies that the kernel is booted from.
fn low(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::arch::x86_64::layout::{HOLE_END, MP_TABLE, Range};

    #[test]
    fn zero_page_names_memory_and_initrd() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, 4096, Some(Range { start: 0x700_0000, size: 0x1234 }), None).unwrap();
        let params: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
        let header = params.hdr;
        assert_eq!({ header.header }, HDRS);
        assert_eq!({ header.ramdisk_image }, 0x700_0000);
        assert_eq!({ header.ramdisk_size }, 0x1234);
        assert_eq!(params.e820_entries, 3);
        let table = params.e820_table;
        assert_eq!({ table[0].size }, MP_TABLE);
        assert_eq!({ table[2].addr }, HOLE_END);
    }
}
