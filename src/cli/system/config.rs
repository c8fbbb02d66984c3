//! `ampoule system config`: the configuration with every default in it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::super::Failure;
use crate::sandbox::{Config, DEFAULT_CONFIG};

/// Print a configuration with every key and its default, to begin /etc/ampoule/config.toml with
///
/// With --check: whether the host's configuration can be read.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  ampoule system config > /etc/ampoule/config.toml")]
pub struct Args {
    /// Look at the host's configuration, and print nothing
    #[arg(long)]
    check: bool,
}

/// Runs the verb.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.check {
        Config::load()?;
    } else {
        io::stdout().write_all(DEFAULT_CONFIG.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
