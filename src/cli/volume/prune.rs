//! `ampoule volume prune`: the volumes that no container has.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::confirm::is_meant;
use super::super::occupied::occupied;
use super::super::{Failure, Global, size};
use super::{Filter, filter, fits, store, users};
use crate::volume::VolumeError;

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
    let (store, users) = (store(global), users(global)?);
    let (mut removed, mut bytes) = (Vec::new(), 0u64);
    for volume in store.list()? {
        let in_use = users.contains_key(&volume.name);
        let wanted = args.all || volume.record.anonymous;
        if in_use || !wanted || !fits(&args.filters, &volume, in_use) {
            continue;
        }
        let held = occupied(&volume.mountpoint);
        match store.remove(&volume.name, &[]) {
            Ok(()) => {
                removed.push(volume.name);
                bytes = bytes.saturating_add(held);
            }
            // Somebody is starting a container with it, or was faster.
            Err(VolumeError::Held(_) | VolumeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !removed.is_empty() {
        println!("Deleted Volumes:\n{}\n", removed.join("\n"));
    }
    println!("Total reclaimed space: {}", size::decimal(bytes));
    Ok(ExitCode::SUCCESS)
}
