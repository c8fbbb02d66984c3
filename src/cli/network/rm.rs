//! `ampoule network rm`: networks that are no longer needed.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::{Failure, Global, each};
use super::store;
use crate::network::bridge::{BridgeError, port};

/// Remove networks; one that a running container is on stays
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule network rm front\n  ampoule network rm -f front back")]
pub struct Args {
    /// One that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Networks
    #[arg(required = true)]
    networks: Vec<String>,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let store = store(global)?;
    each(&args.networks, |name| {
        match store.get(name).and_then(|network| port::remove(&store, &network)) {
            Err(BridgeError::NotFound(_)) if args.force => Ok(()),
            removed => removed,
        }
    })
}
