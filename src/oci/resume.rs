//! `ampoule-oci resume`: the end of a pause.

use std::process::ExitCode;

use ampoule_protocol::message::Request;

use super::record::Status;
use super::{Global, OciError, guest};
use crate::agent::EXCHANGE_TIME;
use crate::sandbox::CONTAINER;

/// Let the processes of a paused container go on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    let (held, mut record) = global.store().hold(&args.id)?;
    record.status = match record.status {
        Status::PausedCreated => Status::Created,
        Status::Paused => Status::Running,
        Status::Created | Status::Running | Status::Stopped => return Err(OciError::NotPaused),
    };
    guest::call(&record, &Request::Resume { container: CONTAINER.to_owned() }, EXCHANGE_TIME)?;
    held.write(&record)?;
    Ok(ExitCode::SUCCESS)
}
