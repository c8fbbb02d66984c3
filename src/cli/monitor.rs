//! `ampoule monitor`: the process that is a sandbox's VMM. Started by a keeper.

use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::Failure;
use crate::monitor::process;

/// The VMM of one sandbox (started by a keeper)
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Id of the sandbox, for whoever looks at the process list
    #[allow(dead_code)]
    id: String,
}

/// Runs the verb.
pub fn run() -> Result<ExitCode, Failure> {
    process::main()?;
    Ok(ExitCode::SUCCESS)
}
