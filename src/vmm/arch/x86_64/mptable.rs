//! The MP table: how the guest learns of its processors and interrupts without ACPI
//! (MultiProcessor Specification 1.4, chapter 4).
//!
//! The one bus is ISA and every entry's flags say "as the bus does": edge-triggered, active high.
//! An irqfd without a resample eventfd raises and lowers its line at once, which is that edge.

use crate::vmm::arch::x86_64::layout::{IO_APIC, IO_APIC_ID, LAST_IRQ, LOCAL_APIC, MP_TABLE};
use crate::vmm::config::MAX_VCPUS;

const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

const ENABLED: u8 = 1;
const BOOT_PROCESSOR: u8 = 2;

const ISA_BUS: u8 = 0;
const ALL_APICS: u8 = 0xff;
const APIC_VERSION: u8 = 0x14;
const SPEC_1_4: u8 = 4;

const POINTER_SIZE: usize = 16;
const HEADER_SIZE: usize = 44;

/// The table of a machine of `vcpus` processors, to be placed at [`MP_TABLE`]: the floating pointer
/// structure, then the configuration table.
pub fn build(vcpus: u8) -> Vec<u8> {
    debug_assert!((1..=MAX_VCPUS).contains(&vcpus));
    let mut entries = Vec::with_capacity(1024);
    let mut count: u16 = 0;
    let mut push = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        let flags = if id == 0 { ENABLED | BOOT_PROCESSOR } else { ENABLED };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[PROCESSOR, id, APIC_VERSION, flags]);
        push(&entry);
    }
    push(&[BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let mut io_apic = [IO_APIC_ENTRY, IO_APIC_ID, APIC_VERSION, ENABLED, 0, 0, 0, 0];
    io_apic[4..].copy_from_slice(&IO_APIC.to_le_bytes());
    push(&io_apic);
    for line in 0..=LAST_IRQ {
        // LAST_IRQ is below 256.
        let line = u8::try_from(line).unwrap_or(u8::MAX);
        push(&[IO_INTERRUPT, INT, 0, 0, ISA_BUS, line, IO_APIC_ID, line]);
    }
    push(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL_APICS, 1]);

    let mut table = floating_pointer();
    table.extend(header(entries.len(), count));
    table.extend(entries);
    let sum = checksum(&table[POINTER_SIZE..]);
    table[POINTER_SIZE + 7] = sum;
    table
}

fn floating_pointer() -> Vec<u8> {
    let mut pointer = Vec::with_capacity(POINTER_SIZE);
    pointer.extend(b"_MP_");
    let table = MP_TABLE + POINTER_SIZE as u64;
    pointer.extend(&table.to_le_bytes()[..4]);
    pointer.extend([1, SPEC_1_4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    pointer
}

fn header(entries: usize, count: u16) -> Vec<u8> {
    // 32 processors and 24 interrupt lines make less than a KiB.
    let length = u16::try_from(HEADER_SIZE + entries).unwrap_or(u16::MAX);
    let mut header = Vec::with_capacity(HEADER_SIZE);
    header.extend(b"PCMP");
    header.extend(length.to_le_bytes());
    header.extend([SPEC_1_4, 0]);
    header.extend(b"AMPOULE MICROVM     ");
    header.extend([0; 6]);
    header.extend(count.to_le_bytes());
    header.extend(LOCAL_APIC.to_le_bytes());
    header.extend([0; 4]);
    header
}

/// The byte that makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::arch::x86_64::layout::BASE_MEMORY_END;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_structures_sum_to_zero_and_fit_for_every_size() {
        for vcpus in 1..=MAX_VCPUS {
            let table = build(vcpus);
            assert_eq!(sum(&table[..POINTER_SIZE]), 0);
            let length = usize::from(u16::from_le_bytes([table[20], table[21]]));
            assert_eq!(POINTER_SIZE + length, table.len());
            assert_eq!(sum(&table[POINTER_SIZE..]), 0);
            assert!(MP_TABLE + table.len() as u64 <= BASE_MEMORY_END);
        }
    }

    #[test]
    fn entries_are_as_many_as_the_header_says() {
        let table = build(3);
        let claimed = u16::from_le_bytes([table[POINTER_SIZE + 34], table[POINTER_SIZE + 35]]);
        let mut rest = &table[POINTER_SIZE + HEADER_SIZE..];
        let mut processors = Vec::new();
        let mut entries = 0;
        while let Some(kind) = rest.first() {
            if *kind == PROCESSOR {
                processors.push((rest[1], rest[3]));
            }
            rest = &rest[if *kind == PROCESSOR { 20 } else { 8 }..];
            entries += 1;
        }
        assert_eq!(entries, claimed);
        assert_eq!(processors, [(0, ENABLED | BOOT_PROCESSOR), (1, ENABLED), (2, ENABLED)]);
    }

    #[test]
    fn bus_entry_is_isa() {
        let table = build(1);
        let bus = &table[POINTER_SIZE + HEADER_SIZE + 20..][..8];
        assert_eq!(bus, [BUS, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    }
}
