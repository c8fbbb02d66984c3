//! Rings and descriptor chains that no driver makes.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn malformed_chains_are_given_back_by_every_queue() {
    needs_sandboxes!();
    Guest::new("chains").survives();
}

#[test]
fn a_broken_ring_stops_its_device_until_a_reset() {
    needs_sandboxes!();
    Guest::new("rings-broken").survives();
}

#[test]
fn devices_write_over_their_own_rings_when_they_are_told_to() {
    needs_sandboxes!();
    Guest::new("rings-overwritten").survives();
}

#[test]
fn descriptors_change_while_a_device_looks_at_them() {
    needs_sandboxes!();
    Guest::new("descriptors-changed").survives();
}
