//! Everything at once, by chance.

use crate::guest::Guest;
use crate::needs_sandboxes;

/// Runs with these numbers by chance.
fn storms(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        Guest::new("storm").seed(seed).may_take(8, 512).survives();
    }
}

#[test]
fn anything_by_chance_1() {
    needs_sandboxes!();
    storms(1..4);
}

#[test]
fn anything_by_chance_2() {
    needs_sandboxes!();
    storms(4..7);
}
