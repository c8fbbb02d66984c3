//! `ampoule template`: what warm starts are restored from.

mod build;
mod ls;
mod prune;
mod rm;

use std::process::ExitCode;

use super::{Failure, Global};

/// Manage templates, which sandboxes are restored from
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Build(build::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    Prune(prune::Args),
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::Build(args) => build::run(args, global),
        Verb::Ls(args) => ls::run(&args, global),
        Verb::Rm(args) => rm::run(&args, global),
        Verb::Prune(args) => prune::run(&args, global),
    }
}
