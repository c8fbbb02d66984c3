//! `ampoule network prune`: the networks that no container is on.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::confirm::is_meant;
use super::super::{Failure, Global};
use super::{Filter, filter, fits, remove_unused};

/// Remove the networks that no container is on, whether it runs or not
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network prune -f\n  \
    ampoule network prune --filter label=tier=test")]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: label=KEY[=VALUE], name=PART
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    filters: Vec<Filter>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    if !args.force && !is_meant("all networks that no container is on")? {
        return Ok(ExitCode::SUCCESS);
    }
    let removed = remove_unused(global, |network| fits(&args.filters, network))?;
    if !removed.is_empty() {
        println!("Deleted Networks:\n{}", removed.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}
