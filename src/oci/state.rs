//! `ampoule-oci state`: a container's state, as JSON.

use std::process::ExitCode;

use super::{Global, OciError};

/// Print the state of a container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let record = global.store().find(&args.id)?;
    println!("{}", super::json(&record.told())?);
    Ok(ExitCode::SUCCESS)
}
