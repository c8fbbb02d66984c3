//! Where things lie in the guest's physical address space.
//!
//! ```text
//!         0x500  GDT of the boot CPU
//!        0x6000  PVH: hvm_start_info, its modules and memory map
//!        0x7000  Linux protocol: the zero page (struct boot_params)
//!        0x9000  Linux protocol: page tables (6 pages)
//!       0x20000  kernel command line
//!       0x9fc00  MP table, in the last KiB of base memory where Linux looks for it
//!      0x100000  kernel, and the initial RAM disk at the end of low memory
//!   0xc000_0000  hole for devices: virtio-mmio from 0xd000_0000, IO-APIC, local APIC
//! 0x1_0000_0000  the memory that did not fit below the hole
//! ```

use crate::vmm::config::MAX_VCPUS;

/// GDT of the boot CPU.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH protocol.
pub const PVH_START_INFO: u64 = 0x6000;
/// Module list of the PVH protocol.
pub const PVH_MODULES: u64 = 0x6100;
/// Memory map of the PVH protocol.
pub const PVH_MEMORY_MAP: u64 = 0x6200;
/// `struct boot_params` of the Linux protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// First of the page tables that the Linux protocol starts with.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Most bytes of the kernel command line with its final NUL (`COMMAND_LINE_SIZE` of x86 Linux).
pub const CMDLINE_MAX: usize = 2048;
/// MP table; the end of usable base memory.
pub const MP_TABLE: u64 = 0x9_fc00;
/// End of base memory.
pub const BASE_MEMORY_END: u64 = 0xa_0000;
/// First address above the legacy area.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Start of the hole that is left for devices below 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// End of the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Registers of the first virtio device.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes that each virtio device occupies.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;

/// IO-APIC, where KVM puts it.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APIC, where KVM puts it.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel processors for a task state segment.
pub const KVM_TSS: usize = 0xfffb_d000;

/// First interrupt line of virtio devices; the lines below belong to the PC's own devices.
pub const FIRST_IRQ: u32 = 5;
/// Last interrupt line: KVM's IO-APIC has 24.
pub const LAST_IRQ: u32 = 23;
/// Interrupt line of the serial port.
pub const SERIAL_IRQ: u32 = 4;

/// Most virtio devices of a machine: one interrupt line each.
pub const MAX_VIRTIO_DEVICES: usize = (LAST_IRQ - FIRST_IRQ + 1) as usize;

/// APIC id of the IO-APIC: one that no vCPU has.
pub const IO_APIC_ID: u8 = MAX_VCPUS;

const MIB: u64 = 1 << 20;

/// A range of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// First address behind the range.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// The ranges that guest memory of `mib` MiB occupies: one, or two around the hole.
pub fn memory_ranges(mib: u32) -> Vec<Range> {
    let total = u64::from(mib) * MIB;
    let low = total.min(HOLE_START);
    let mut ranges = vec![Range { start: 0, size: low }];
    if total > low {
        ranges.push(Range { start: HOLE_END, size: total - low });
    }
    ranges
}

/// The ranges that the kernel may use: [`memory_ranges`] without the legacy area and the MP table.
pub fn usable_ranges(mib: u32) -> Vec<Range> {
    let mut ranges = vec![Range { start: 0, size: MP_TABLE }];
    for range in memory_ranges(mib) {
        let start = range.start.max(HIGH_MEMORY);
        ranges.push(Range { start, size: range.end() - start });
    }
    ranges
}

/// End of the memory below the hole.
pub fn low_memory_end(mib: u32) -> u64 {
    (u64::from(mib) * MIB).min(HOLE_START)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::config::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};
    use proptest::prelude::*;

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(memory_ranges(128), [Range { start: 0, size: 128 * MIB }]);
        assert_eq!(memory_ranges(3072), [Range { start: 0, size: HOLE_START }]);
    }

    #[test]
    fn memory_above_the_hole_continues_at_4_gib() {
        assert_eq!(
            memory_ranges(4096),
            [Range { start: 0, size: HOLE_START }, Range { start: HOLE_END, size: 1024 * MIB }]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_hole_stays_free(mib in MIN_MEMORY_MIB..=MAX_MEMORY_MIB) {
            let ranges = memory_ranges(mib);
            prop_assert_eq!(ranges.iter().map(|r| r.size).sum::<u64>(), u64::from(mib) * MIB);
            prop_assert!(ranges.iter().all(|r| r.end() <= HOLE_START || r.start >= HOLE_END));
            prop_assert_eq!(low_memory_end(mib), ranges[0].end());
        }

        #[test]
        fn usable_memory_is_real_memory(mib in MIN_MEMORY_MIB..=MAX_MEMORY_MIB) {
            let real = memory_ranges(mib);
            for usable in usable_ranges(mib) {
                prop_assert!(usable.size > 0);
                prop_assert!(
                    real.iter().any(|r| r.start <= usable.start && usable.end() <= r.end())
                );
                prop_assert!(usable.end() <= MP_TABLE || usable.start >= HIGH_MEMORY);
            }
        }
    }
}
