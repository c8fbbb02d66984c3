//! Registers, descriptor table and page tables with which the boot CPU enters the kernel.
//!
//! The other CPUs wait for the boot CPU's startup interrupt in KVM's reset state.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::vmm::arch::x86_64::layout::{GDT, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;

const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const BUSY_TSS: u8 = 0xb;

/// `__BOOT_CS` and `__BOOT_DS` of the Linux boot protocol.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

const PRESENT_WRITABLE: u64 = 0b11;
const HUGE_PAGE: u64 = 1 << 7;
const PAGE: u64 = 0x1000;

/// How the boot CPU enters the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging, `ebx` at the start info (PVH boot protocol).
    Pvh(u32),
    /// 64-bit mode with the first 4 GiB mapped one to one, `rsi` at the zero page (Linux boot
    /// protocol, "64-bit boot protocol").
    Linux64(u64),
}

impl Entry {
    /// General purpose registers at entry.
    pub fn regs(self) -> kvm_regs {
        let start = kvm_regs { rflags: RFLAGS, ..Default::default() };
        match self {
            Entry::Pvh(rip) => kvm_regs { rip: rip.into(), rbx: PVH_START_INFO, ..start },
            Entry::Linux64(rip) => kvm_regs { rip, rsi: ZERO_PAGE, ..start },
        }
    }

    /// Turns KVM's reset state into the system registers at entry.
    pub fn set_sregs(self, sregs: &mut kvm_sregs) {
        let long = matches!(self, Entry::Linux64(_));
        sregs.cs = flat(CODE_SELECTOR, CODE, long);
        let data = flat(DATA_SELECTOR, DATA, false);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        sregs.tr = task(TSS_SELECTOR);
        sregs.gdt.base = GDT;
        sregs.gdt.limit = GDT_LIMIT;
        sregs.idt.base = 0;
        sregs.idt.limit = 0;
        sregs.cr0 |= CR0_PE;
        if long {
            sregs.cr0 |= CR0_PG;
            sregs.cr3 = PAGE_TABLES;
            sregs.cr4 |= CR4_PAE;
            sregs.efer |= EFER_LME | EFER_LMA;
        }
    }

    /// Writes the tables that [`Entry::set_sregs`] points at.
    pub fn write_tables(self, memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
        let long = matches!(self, Entry::Linux64(_));
        let gdt = [
            0,
            0,
            descriptor(&flat(CODE_SELECTOR, CODE, long)),
            descriptor(&flat(DATA_SELECTOR, DATA, false)),
            descriptor(&task(TSS_SELECTOR)),
        ];
        write_words(memory, GDT, &gdt)?;
        if long { write_page_tables(memory) } else { Ok(()) }
    }
}

/// Bytes of the five descriptors, less one.
const GDT_LIMIT: u16 = 5 * 8 - 1;

fn flat(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn task(selector: u16) -> kvm_segment {
    kvm_segment { limit: 0x67, selector, type_: BUSY_TSS, present: 1, ..Default::default() }
}

/// A segment as it stands in a descriptor table (Intel SDM volume 3, 3.4.5); the base is always 0.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    (limit & 0xffff)
        | (u64::from(segment.type_) << 40)
        | (u64::from(segment.s) << 44)
        | (u64::from(segment.dpl) << 45)
        | (u64::from(segment.present) << 47)
        | ((limit >> 16) << 48)
        | (u64::from(segment.l) << 53)
        | (u64::from(segment.db) << 54)
        | (u64::from(segment.g) << 55)
}

/// Maps the first 4 GiB one to one in pages of 2 MiB: kernel, zero page and command line lie there.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let pdpt = PAGE_TABLES + PAGE;
    let directories = pdpt + PAGE;
    write_words(memory, PAGE_TABLES, &[pdpt | PRESENT_WRITABLE])?;
    for gib in 0..4u64 {
        let directory = directories + gib * PAGE;
        write_words(memory, pdpt + gib * 8, &[directory | PRESENT_WRITABLE])?;
        let entries: Vec<u64> =
            (0..512).map(|i| (gib << 30) | (i << 21) | HUGE_PAGE | PRESENT_WRITABLE).collect();
        write_words(memory, directory, &entries)?;
    }
    Ok(())
}

fn write_words(memory: &GuestMemoryMmap, at: u64, words: &[u64]) -> Result<(), GuestMemoryError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write_slice(&bytes, GuestAddress(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_their_well_known_values() {
        assert_eq!(descriptor(&flat(0, CODE, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0, CODE, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0, DATA, false)), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task(0)), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn long_mode_tables_map_one_to_one() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        Entry::Linux64(0).write_tables(&memory).unwrap();
        let word = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        let walk = |address: u64| {
            let pdpt = word(PAGE_TABLES) & !0xfff;
            let directory = word(pdpt + (address >> 30) * 8) & !0xfff;
            word(directory + ((address >> 21) & 511) * 8)
        };
        for address in [0, 0x20_0000, 0x4020_0000, 0xffe0_0000] {
            assert_eq!(walk(address), address | HUGE_PAGE | PRESENT_WRITABLE);
        }
    }

    #[test]
    fn pvh_starts_without_paging() {
        let mut sregs = kvm_sregs::default();
        Entry::Pvh(0x10_0000).set_sregs(&mut sregs);
        assert_eq!((sregs.cr0 & CR0_PG, sregs.efer, sregs.cs.l, sregs.cs.db), (0, 0, 0, 1));
        assert_eq!(Entry::Pvh(0x10_0000).regs().rbx, PVH_START_INFO);
    }
}
