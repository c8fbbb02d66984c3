//! `ampoule image prune`: what nobody needs.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use super::super::{Failure, Global, size};
use super::rm::print;
use crate::image::Store;

/// Remove images that no name means, and what is left of pulls that were given up
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove every image that no sandbox uses
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Asks, and removes them.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    if !args.force && !confirmed(args.all)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = Store::open(&global.places().data)?.prune(args.all)?;
    if !pruned.removed.is_empty() {
        println!("Deleted Images:");
        pruned.removed.iter().for_each(print);
        println!();
    }
    println!("Total reclaimed space: {}", size::decimal(pruned.bytes));
    Ok(ExitCode::SUCCESS)
}

fn confirmed(all: bool) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err("no terminal to ask whether to remove images: give -f".into());
    }
    let what = if all { "images that no sandbox uses" } else { "images without a name" };
    print!("WARNING! This will remove all {what}.\nAre you sure you want to continue? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
