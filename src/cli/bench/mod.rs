//! `ampoule bench`: how quick this host is.

mod progress;
mod start;
mod tables;

use std::process::ExitCode;

use super::{Failure, Global};

/// Measure how quick sandboxes are on this host
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Start(start::Args),
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Start(args) => start::run(args, global),
    }
}
