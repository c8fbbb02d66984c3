//! `hvm_start_info`: what a kernel entered by the PVH protocol is told.

use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Initrd, write as written};
use crate::vmm::arch::x86_64::layout::{
    CMDLINE, PVH_MEMORY_MAP, PVH_MODULES, PVH_START_INFO, usable_ranges,
};

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3".
const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u32 = 1;

/// Writes the start info and what it points at.
pub fn write(memory: &GuestMemoryMmap, memory_mib: u32, initrd: Initrd) -> Result<(), BootError> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: CMDLINE,
        memmap_paddr: PVH_MEMORY_MAP,
        ..Default::default()
    };
    let mut at = PVH_MEMORY_MAP;
    for range in usable_ranges(memory_mib) {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: RAM,
            ..Default::default()
        };
        written("the memory map", memory.write_obj(entry, GuestAddress(at)))?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
        info.memmap_entries += 1;
    }
    if let Some(initrd) = initrd {
        let module =
            hvm_modlist_entry { paddr: initrd.start, size: initrd.size, ..Default::default() };
        written("the module list", memory.write_obj(module, GuestAddress(PVH_MODULES)))?;
        info.nr_modules = 1;
        info.modlist_paddr = PVH_MODULES;
    }
    written("the PVH start info", memory.write_obj(info, GuestAddress(PVH_START_INFO)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::arch::x86_64::layout::{HOLE_END, Range};

    #[test]
    fn start_info_points_at_map_and_module() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let initrd = Range { start: 0x700_0000, size: 0x1234 };
        write(&memory, 4096, Some(initrd)).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(PVH_START_INFO)).unwrap();
        assert_eq!((info.magic, info.nr_modules, info.memmap_entries), (MAGIC, 1, 3));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (initrd.start, initrd.size));
        let high: hvm_memmap_table_entry =
            memory.read_obj(GuestAddress(info.memmap_paddr + 48)).unwrap();
        assert_eq!((high.addr, high.size, high.type_), (HOLE_END, 1 << 30, RAM));
    }
}
