//! `ampoule kill`: send a signal to containers.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use nix::sys::signal::Signal;

use super::arguments::signal;
use super::{Failure, Global, each};
use crate::sandbox::{Registry, lifecycle};

/// Kill running containers, or send another signal to their programs
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule kill web\n  \
    ampoule kill -s HUP web")]
pub struct Args {
    /// Signal to send
    #[arg(short, long, value_parser = signal, default_value = "SIGKILL")]
    signal: Signal,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    each(&args.containers, |container| lifecycle::kill(&registry, container, args.signal).map(drop))
}
