//! `ampoule rm`: remove containers' records.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global, each};
use crate::sandbox::{Registry, lifecycle};

/// Remove containers
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule rm job\n  \
    ampoule rm -f $(ampoule ps -aq)")]
pub struct Args {
    /// Kill and remove running containers too
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that were made for them alone, too
    #[arg(short, long)]
    volumes: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    each(&args.containers, |container| {
        lifecycle::remove(&registry, container, args.force, args.volumes).map(drop)
    })
}
