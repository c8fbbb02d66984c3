//! `ampoule wait`: wait until containers end.

use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};

use super::{Failure, Global};
use crate::sandbox::Registry;
use crate::sandbox::lifecycle::{self, Condition};

/// Wait until containers have ended, and print their exit codes
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule wait job\n  \
    ampoule wait --condition next-exit web")]
pub struct Args {
    /// What is waited for
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = What::NotRunning)]
    condition: What,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// It does not run (at once where it does not)
    NotRunning,
    /// It has ended once more
    NextExit,
    /// It is no more
    Removed,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let registry = Registry::new(&global.places());
    let condition = match args.condition {
        What::NotRunning => Condition::NotRunning,
        What::NextExit => Condition::NextExit,
        What::Removed => Condition::Removed,
    };
    // All are looked up first: one that goes while another is waited for was there.
    let entries: Vec<_> =
        args.containers.iter().map(|name| registry.find(name)).collect::<Result<_, _>>()?;
    for entry in &entries {
        println!("{}", lifecycle::wait(&registry, entry, condition)?.unwrap_or(0));
    }
    Ok(ExitCode::SUCCESS)
}
