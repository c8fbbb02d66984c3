//! Requests to disks that cannot be carried out, or are as large as can be.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn requests_beyond_a_disk_and_against_its_nature_are_refused() {
    needs_sandboxes!();
    Guest::new("block-requests").survives();
}

#[test]
fn the_largest_requests_take_no_memory_of_the_monitors() {
    needs_sandboxes!();
    Guest::new("block-large").survives();
}
