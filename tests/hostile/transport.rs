//! The transport's registers: anything, at any time, in any order.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn anything_in_any_width_is_written_to_every_register() {
    needs_sandboxes!();
    Guest::new("registers-garbage").survives();
}

#[test]
fn no_step_of_a_driver_counts_before_the_one_that_it_follows() {
    needs_sandboxes!();
    Guest::new("registers-order").survives();
}

#[test]
fn queues_that_cannot_be_keep_a_device_from_starting() {
    needs_sandboxes!();
    Guest::new("queues-wrong").survives();
}

#[test]
fn a_device_at_work_keeps_to_the_rings_that_it_was_given() {
    needs_sandboxes!();
    Guest::new("rings-moved").survives();
}

#[test]
fn devices_are_reset_in_the_middle_of_their_requests() {
    needs_sandboxes!();
    Guest::new("reset-races").survives();
}

#[test]
fn devices_are_notified_of_nothing_again_and_again() {
    needs_sandboxes!();
    Guest::new("notify-storm").survives();
}
