//! Connections without end, packets of none, and lies about credit.

use crate::guest::Guest;
use crate::needs_sandboxes;

/// Most connections that a guest may have.
const CONNECTIONS: usize = 1024;

/// What of each connection the monitor holds at most: 128 KiB.
const HELD_MIB: u64 = CONNECTIONS as u64 / 8;

#[test]
fn packets_that_make_no_sense_end_no_more_than_their_connection() {
    needs_sandboxes!();
    Guest::new("vsock-packets").may_take(8, 64).survives();
}

#[test]
fn a_flood_of_connections_and_data_stops_at_its_limits() {
    needs_sandboxes!();
    let done = Guest::new("vsock-flood").may_take(HELD_MIB, CONNECTIONS).survives();
    let open: Vec<_> = done.samples.iter().map(|sample| sample.descriptors).collect();
    assert!(open[0] >= CONNECTIONS && open[1] < open[0] - CONNECTIONS / 10, "{open:?}");
}

#[test]
fn lies_about_credit_are_the_end_of_their_connection() {
    needs_sandboxes!();
    Guest::new("vsock-credit").survives();
}

#[test]
fn a_guest_that_takes_no_answers_is_not_listened_to() {
    needs_sandboxes!();
    Guest::new("vsock-no-room").survives();
}
