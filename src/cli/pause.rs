//! `ampoule pause`: let containers stand still.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global, each};
use crate::sandbox::{Registry, lifecycle};

/// Let all processes of running containers stand still
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule pause web")]
pub struct Args {
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    each(&args.containers, |container| lifecycle::pause(&registry, container, true).map(drop))
}
