//! What else there is on the machine: ports, addresses without a device, interrupts, registers of
//! the processor, the serial line.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn every_port_is_read_and_written() {
    needs_sandboxes!();
    Guest::new("ports").survives();
}

#[test]
fn addresses_without_memory_or_device_are_empty() {
    needs_sandboxes!();
    Guest::new("holes").survives();
}

#[test]
fn a_storm_of_interrupts_is_the_guests_own() {
    needs_sandboxes!();
    Guest::new("interrupts").survives();
}

#[test]
fn registers_of_the_processor_are_set_to_anything() {
    needs_sandboxes!();
    Guest::new("registers-of-the-processor").survives();
}

#[test]
fn a_guest_has_no_virtual_machines_of_its_own() {
    needs_sandboxes!();
    Guest::new("nested").survives();
}

#[test]
fn a_line_without_end_takes_no_memory() {
    needs_sandboxes!();
    Guest::new("serial").survives();
}
