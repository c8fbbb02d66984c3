//! `ampoule stop`: ask containers to end, then kill them.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use nix::sys::signal::Signal;

use super::arguments::signal;
use super::{Failure, Global, each};
use crate::sandbox::Registry;
use crate::sandbox::lifecycle::{self, Stop};

/// Which containers are to end, and how.
#[derive(Debug, ClapArgs)]
pub struct StopArgs {
    /// Seconds to wait before a container is killed, -1 for ever [default: the container's, or 10]
    #[arg(short, long, allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to ask with [default: the container's, its image's, or SIGTERM]
    #[arg(short, long, value_parser = signal)]
    signal: Option<Signal>,
    /// Containers, by name or id
    #[arg(required = true)]
    pub containers: Vec<String>,
}

impl StopArgs {
    /// How they are asked to end.
    pub fn how(&self) -> Stop {
        Stop { signal: self.signal, seconds: self.time }
    }
}

/// Stop running containers
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule stop web\n  \
    ampoule stop -t 2 -s INT web db")]
pub struct Args {
    #[command(flatten)]
    stop: StopArgs,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let how = args.stop.how();
    each(&args.stop.containers, |container| lifecycle::stop(&registry, container, how).map(drop))
}
