//! `ampoule volume rm`: volumes that are no longer needed.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::{Failure, Global, each};
use super::{store, users};
use crate::volume::VolumeError;

/// Remove volumes with all that is in them; one that a container has stays
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule volume rm data\n  ampoule volume rm -f data other")]
pub struct Args {
    /// One that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(required = true)]
    volumes: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let (store, users) = (store(global), users(global)?);
    each(&args.volumes, |name| {
        let users = users.get(name).map_or(&[][..], Vec::as_slice);
        match store.remove(name, users) {
            Err(VolumeError::NotFound(_)) if args.force => Ok(()),
            removed => removed,
        }
    })
}
