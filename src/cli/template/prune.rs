//! `ampoule template prune`: remove the templates that no start will use again.

use std::process::ExitCode;

use super::super::{Failure, Global};
use crate::sandbox::template::Templates;

/// Remove templates whose kernel, agent or program has changed or is gone
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule template prune\n  \
    ampoule template prune --all")]
pub struct Args {
    /// Remove all
    #[arg(short, long)]
    all: bool,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let templates = Templates::new(global.places().templates());
    templates.prune(args.all)?.iter().for_each(|key| println!("{key}"));
    Ok(ExitCode::SUCCESS)
}
