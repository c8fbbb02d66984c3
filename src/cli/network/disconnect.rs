//! `ampoule network disconnect`: a container leaves a network.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::{Failure, Global};
use crate::sandbox::Registry;
use crate::sandbox::network;

/// Take a container off a network, at once where it runs
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule network disconnect front web")]
pub struct Args {
    /// Also where the container cannot be asked
    #[arg(short, long)]
    force: bool,
    /// Network
    network: String,
    /// Container, by name or id
    container: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let places = global.places();
    let entry = Registry::new(&places).find(&args.container)?;
    // One that was removed meanwhile can be left, too.
    let network = network::store(&places)?.get(&args.network);
    let name = network.map_or_else(|_| args.network.clone(), |network| network.name);
    network::disconnect(&entry, &name, args.force)?;
    Ok(ExitCode::SUCCESS)
}
