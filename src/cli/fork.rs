//! `ampoule fork`: further sandboxes out of a running one.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::sandbox::fork;

/// Clone a running container, with its processes as they are, into new ones; print their ids
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "The container goes on, and so does each clone, with an identity of its own \
    (random numbers, boot id, host name). A clone runs in the background; its output from there on \
    is in `ampoule logs`.\n\nExample:\n  ampoule fork web"
)]
pub struct Args {
    /// Container, by name or id
    container: String,
    /// Names of the clones (default: one clone, with a random name)
    names: Vec<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: &Global) -> Result<ExitCode, Failure> {
    let mut names: Vec<Option<String>> = args.names.into_iter().map(Some).collect();
    if names.is_empty() {
        names.push(None);
    }
    fork::fork(&global.places(), &args.container, &names, |id| println!("{id}"))?;
    Ok(ExitCode::SUCCESS)
}
