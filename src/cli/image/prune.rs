//! `ampoule image prune`: what nobody needs.

use std::process::ExitCode;

use super::super::confirm::is_meant;
use super::super::{Failure, Global, size};
use super::rm::print;
use crate::image::Store;
use crate::sandbox::{Registry, images_of};

/// Remove images that no name means, and what is left of pulls that were given up
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule image prune\n  \
    ampoule image prune -a -f")]
pub struct Args {
    /// Remove every image that no container uses
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Asks, and removes them.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let what = if args.all { "images that no container uses" } else { "images without a name" };
    if !args.force && !is_meant(&format!("all {what}"))? {
        return Ok(ExitCode::SUCCESS);
    }
    let places = global.places();
    let users = images_of(&Registry::new(&places).list()?);
    let pruned = Store::open(&places.data)?.with_users(users).prune(args.all)?;
    if !pruned.removed.is_empty() {
        println!("Deleted Images:");
        pruned.removed.iter().for_each(print);
        println!();
    }
    println!("Total reclaimed space: {}", size::decimal(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}
