//! `ampoule vm`: machines without containers.

mod run;

use std::process::ExitCode;

use clap::Subcommand;

use super::Failure;

/// Run machines without containers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a kernel in a machine of its own
    Run(run::Args),
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Run(args) => run::run(args),
    }
}
