//! `ampoule stop`: ask containers to end, then kill them.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;
use nix::sys::signal::Signal;

use super::arguments::signal;
use super::{Failure, Global, each};
use crate::sandbox::{Registry, lifecycle};

/// Stop running containers
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Seconds to wait before the container is killed; -1 for ever
    #[arg(short, long, default_value_t = 10, allow_negative_numbers = true)]
    time: i64,
    /// Signal to ask with
    #[arg(short, long, value_parser = signal, default_value = "SIGTERM")]
    signal: Signal,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let grace = u64::try_from(args.time).ok().map(Duration::from_secs);
    each(&args.containers, |container| {
        lifecycle::stop(&registry, container, args.signal, grace).map(drop)
    })
}
