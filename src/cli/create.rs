//! `ampoule create`: a container that is not started yet.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::arguments::{ContainerArgs, LifeArgs};
use super::pull::{self, PullPolicy};
use super::registry::RegistryArgs;
use super::{Failure, Global};
use crate::sandbox::{Options, lifecycle};

/// Make a container without starting it; print its id
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule create --name job debian make -j4\n  \
    ampoule start --attach job")]
pub struct Args {
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// When the image is pulled
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = PullPolicy::Missing)]
    pull: PullPolicy,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    life: LifeArgs,
    #[command(flatten)]
    container: ContainerArgs,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let Args { rm, pull, registry, life, container } = args;
    let options = life.apply(Options { remove: rm, ..container.options(&places)? })?;
    let verify_with = options.verify_with.as_deref();
    let image = pull::ensure(&places, &options.image, pull, verify_with, &registry)?;
    options.accept(&image)?;
    let id = lifecycle::create(&places, &image, options)?;
    println!("{id}");
    Ok(ExitCode::SUCCESS)
}
