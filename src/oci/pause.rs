//! `ampoule-oci pause`: all processes of a container stand still.

use std::process::ExitCode;

use ampoule_protocol::message::Request;

use super::record::Status;
use super::{Global, OciError, guest};
use crate::agent::EXCHANGE_TIME;
use crate::sandbox::CONTAINER;

/// Freeze all processes of a container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let (held, mut record) = global.store().hold(&args.id)?;
    record.status = match record.status {
        Status::Created => Status::PausedCreated,
        Status::Running => Status::Paused,
        Status::Paused | Status::PausedCreated => return Err(OciError::AlreadyPaused),
        Status::Stopped => return Err(OciError::NotRunning),
    };
    guest::call(&record, &Request::Pause { container: CONTAINER.to_owned() }, EXCHANGE_TIME)?;
    held.write(&record)?;
    Ok(ExitCode::SUCCESS)
}
