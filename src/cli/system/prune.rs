//! `ampoule system prune`: takes away what nobody needs.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::confirm::is_meant;
use super::super::occupied::occupied;
use super::super::volume::remove_unused;
use super::super::{Failure, Global, size};
use crate::build;
use crate::image::Store;
use crate::sandbox::{Registry, images_of, lifecycle};

/// Remove containers that do not run, and images without a name
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule system prune --all --volumes --force")]
pub struct Args {
    /// All images that no container uses, not just those without a name, and the cache of builds
    #[arg(short, long)]
    all: bool,
    /// Volumes without a name of their own that no container has, too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let images = if args.all {
        "all images that no container uses, the cache of builds"
    } else {
        "images without a name"
    };
    let volumes = if args.volumes { ", volumes without a name" } else { "" };
    let what = format!("all containers that do not run, {images}{volumes}");
    if !args.force && !is_meant(&what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let places = global.places();
    let registry = Registry::new(&places);
    registry.sweep()?;
    let mut bytes = 0u64;
    let mut gone = Vec::new();
    for entry in registry.list()?.into_iter().filter(|entry| !entry.folder.is_kept()) {
        let taken = occupied(entry.folder.container());
        // One that is being started stays.
        if lifecycle::remove(&registry, &entry.state.id, false, false).is_ok() {
            bytes = bytes.saturating_add(taken);
            gone.push(entry.state.id);
        }
    }
    tell("Deleted Containers:", &gone);
    if args.volumes {
        let (gone, freed) = remove_unused(global, |volume| volume.record.anonymous)?;
        bytes = bytes.saturating_add(freed);
        tell("Deleted Volumes:", &gone);
    }
    let pruned =
        Store::open(&places.data)?.with_users(images_of(&registry.list()?)).prune(args.all)?;
    bytes = bytes.saturating_add(pruned.bytes);
    if !pruned.removed.is_empty() {
        println!("Deleted Images:");
        pruned.removed.iter().for_each(super::super::image::rm::print);
        println!();
    }
    if args.all {
        let cache = build::cache(&places);
        let before = occupied(&cache);
        build::prune(&places)?;
        bytes = bytes.saturating_add(before.saturating_sub(occupied(&cache)));
    }
    println!("Total reclaimed space: {}", size::decimal(bytes));
    Ok(ExitCode::SUCCESS)
}

fn tell(heading: &str, gone: &[String]) {
    if !gone.is_empty() {
        println!("{heading}\n{}\n", gone.join("\n"));
    }
}
