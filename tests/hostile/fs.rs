//! Messages of a file system's driver that was written to get out of its folder.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn messages_that_lie_about_themselves_are_refused() {
    needs_sandboxes!();
    Guest::new("fs-messages").may_take(0, 64).survives();
}

#[test]
fn no_name_and_no_link_leads_out_of_the_shared_folder() {
    needs_sandboxes!();
    Guest::new("fs-names").may_take(0, 32).survives();
}

#[test]
fn forged_nodes_and_handles_are_nothing() {
    needs_sandboxes!();
    Guest::new("fs-forged").survives();
}

#[test]
fn what_a_guest_holds_open_goes_with_its_driver() {
    needs_sandboxes!();
    let done = Guest::new("fs-exhaust").may_take(8, 2000).survives();
    let open: Vec<_> = done.samples.iter().map(|sample| sample.descriptors).collect();
    assert!(open[0] > 1000 && open[1] < 64, "{open:?}");
}
