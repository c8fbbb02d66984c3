//! Guests that run while things are plugged into them and taken out again, as a pod's keeper does it.
//!
//! The test program keeps them itself, in the place of a runtime, and is executed once more as their
//! monitor: it has a `main` of its own for that.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod network;
mod pod;
mod shares;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// What tests end with: a panic is a failure.
fn test(name: &str, body: fn()) -> Trial {
    let full = name.to_owned();
    Trial::test(name, move || {
        // `skip` tells which test it is by its thread.
        let thread = std::thread::Builder::new().name(full).spawn(body)?;
        thread.join().map_err(|_| "it panicked".into())
    })
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("monitor") {
        return ampoule::cli::main();
    }
    let tests = vec![
        test("shares_come_and_go_while_the_guest_runs", shares::come_and_go),
        test("a_removed_share_is_let_go_of_by_guest_and_monitor", shares::are_let_go_of),
        test("containers_of_one_root_are_made_at_once", shares::one_root_for_many),
        test("a_tap_is_plugged_in_and_out", network::comes_and_goes),
        test("containers_share_the_network_of_their_pod", network::is_the_pods),
        test("disks_are_plugged_in_and_out", disks::come_and_go),
        test("only_the_keeper_plugs", disks::are_the_keepers_to_plug),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
