//! `ampoule volume prune`: the volumes that no container has.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::confirm::is_meant;
use super::super::{Failure, Global, size};
use super::{Filter, filter, fits, remove_unused};
use crate::volume::Volume;

/// Remove the volumes that no container has: those without a name of their own, or all
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule volume prune -f\n  \
    ampoule volume prune --all --filter label=tier=test")]
pub struct Args {
    /// Those that somebody gave a name, too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: label=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<Filter>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let which = if args.all { "all volumes" } else { "anonymous volumes" };
    if !args.force && !is_meant(&format!("{which} that no container has"))? {
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = |volume: &Volume| {
        (args.all || volume.record.anonymous) && fits(&args.filters, volume, false)
    };
    let (removed, bytes) = remove_unused(global, wanted)?;
    if !removed.is_empty() {
        println!("Deleted Volumes:\n{}\n", removed.join("\n"));
    }
    println!("Total reclaimed space: {}", size::decimal(bytes));
    Ok(ExitCode::SUCCESS)
}
