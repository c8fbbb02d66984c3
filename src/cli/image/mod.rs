//! `ampoule image`: what is in the image store.

pub mod ls;
pub mod rm;

use std::process::ExitCode;

use super::{Failure, Global};

/// Manage images.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Ls(args) => ls::run(args, global),
        Verb::Rm(args) => rm::run(args, global),
    }
}
