//! `ampoule rename`: give a container another name.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::sandbox::{Registry, events, network};

/// Give a container another name
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule rename web front")]
pub struct Args {
    /// Container, by name or id
    container: String,
    /// Its new name
    name: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let entry = registry.find(&args.container)?;
    registry.rename(&entry, &args.name)?;
    let mut renamed = entry.state;
    let old = [("oldName", std::mem::replace(&mut renamed.name, args.name.clone()))];
    events::tell(registry.places(), "rename", &renamed, &old);
    network::rename(registry.places(), &renamed.id, &args.name)?;
    Ok(ExitCode::SUCCESS)
}
