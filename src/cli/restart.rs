//! `ampoule restart`: stop containers, and start them again.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::stop::StopArgs;
use super::{Failure, Global, each};
use crate::sandbox::{Registry, lifecycle};

/// Stop containers and start them again; those that do not run are started
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule restart web\n  \
    ampoule restart -t 2 web db")]
pub struct Args {
    #[command(flatten)]
    stop: StopArgs,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let how = args.stop.how();
    each(&args.stop.containers, |container| {
        lifecycle::stop(&registry, container, how)?;
        lifecycle::start(&registry, container).map(drop)
    })
}
