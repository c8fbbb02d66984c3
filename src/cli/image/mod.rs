//! `ampoule image`: what is in the image store.

pub mod ls;
pub mod rm;

use std::path::PathBuf;
use std::process::ExitCode;

use super::Failure;
use crate::image::{Store, StoreError};

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
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.verb {
        Verb::Ls(args) => ls::run(args),
        Verb::Rm(args) => rm::run(args),
    }
}

/// The image store: that in `AMPOULE_ROOT`, else the user's own.
pub fn open_store() -> Result<Store, StoreError> {
    let root = std::env::var_os("AMPOULE_ROOT").map(PathBuf::from);
    Store::open(&root.unwrap_or_else(Store::default_root))
}
