//! A balloon that lies.

use crate::guest::Guest;
use crate::needs_sandboxes;

#[test]
fn pages_that_are_none_are_not_given_back() {
    needs_sandboxes!();
    Guest::new("balloon-lies").survives();
}
