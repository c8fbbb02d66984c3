//! `ampoule image`: what is in the image store.

mod inspect;
pub mod ls;
pub mod progress;
mod prune;
pub mod rm;

use std::process::ExitCode;

use super::{Failure, Global, history, import, load, pull, push, save, tag};

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
    Inspect(inspect::Args),
    History(history::Args),
    Prune(prune::Args),
    Pull(pull::Args),
    Push(push::Args),
    Load(load::Args),
    Save(save::Args),
    Import(import::Args),
    Tag(tag::Args),
}

impl Args {
    /// Whether it is a pull or a push.
    pub fn speaks_to_a_registry(&self) -> bool {
        matches!(self.verb, Verb::Pull(_) | Verb::Push(_))
    }
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Ls(args) => ls::run(args, global),
        Verb::Rm(args) => rm::run(args, global),
        Verb::Inspect(args) => inspect::run(args, global),
        Verb::History(args) => history::run(args, global),
        Verb::Prune(args) => prune::run(args, global),
        Verb::Pull(args) => pull::run(args, global),
        Verb::Push(args) => push::run(args, global),
        Verb::Load(args) => load::run(args, global),
        Verb::Save(args) => save::run(args, global),
        Verb::Import(args) => import::run(args, global),
        Verb::Tag(args) => tag::run(args, global),
    }
}
