//! `ampoule keeper`: the process that keeps a detached container. Started by `ampoule run -d`.

use std::process::ExitCode;

use super::Failure;
use crate::sandbox::detach;

/// Runs the verb.
pub fn run() -> Result<ExitCode, Failure> {
    detach::main()?;
    Ok(ExitCode::SUCCESS)
}
