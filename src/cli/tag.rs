//! `ampoule tag`: one more name for an image.

use std::process::ExitCode;

use super::{Failure, Global};
use crate::image::{Reference, Store};

/// Give an image one more name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ampoule tag debian:12 registry.test/me/debian:12")]
pub struct Args {
    /// Name or id of the image
    #[arg(value_name = "IMAGE")]
    source: String,
    /// The name, which another image loses if it has it
    #[arg(value_name = "NAME[:TAG]")]
    target: Reference,
}

/// Gives it the name.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    Store::open(&global.places().data)?.tag(&args.source, args.target.clone())?;
    Ok(ExitCode::SUCCESS)
}
