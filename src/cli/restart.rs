//! `ampoule restart`: stop containers, and start them again.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use nix::sys::signal::Signal;

use super::arguments::signal;
use super::{Failure, Global, each};
use crate::sandbox::Registry;
use crate::sandbox::lifecycle::{self, Stop};

/// Stop containers and start them again; those that do not run are started
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Seconds to wait before a container is killed, -1 for ever [default: the container's, or 10]
    #[arg(short, long, allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to ask with [default: the container's, its image's, or SIGTERM]
    #[arg(short, long, value_parser = signal)]
    signal: Option<Signal>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let how = Stop { signal: args.signal, seconds: args.time };
    each(&args.containers, |container| {
        lifecycle::stop(&registry, container, how)?;
        lifecycle::start(&registry, container).map(drop)
    })
}
