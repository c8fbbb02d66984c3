//! `ampoule-oci start`: the program of a created container is executed.

use std::process::ExitCode;

use ampoule_protocol::message::{ProcessId, Request};

use super::hooks::{self, Kind};
use super::record::Status;
use super::{Global, OciError, network};
use crate::agent::{Client, ClientError, EXCHANGE_TIME};
use crate::sandbox::CONTAINER;

/// Execute the program of a created container
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    start(global, &args.id, Laid::Meanwhile)?;
    Ok(ExitCode::SUCCESS)
}

/// When somebody may have laid the container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Laid {
    /// Not since it was created.
    Before,
    /// Since then, too.
    Meanwhile,
}

/// Starts a created container.
pub fn start(global: &Global, id: &str, laid: Laid) -> Result<(), OciError> {
    let (held, mut record) = global.store().hold(id)?;
    match record.status {
        Status::Created => {}
        Status::Stopped => {
            return Err(OciError::Usage("cannot start a container that has stopped".into()));
        }
        Status::Paused | Status::PausedCreated => {
            return Err(OciError::Usage("cannot start a container in the paused state".into()));
        }
        Status::Running => {
            return Err(OciError::Usage("cannot start an already running container".into()));
        }
    }
    let spec = held.folder.read_config()?;
    if laid == Laid::Meanwhile {
        for warning in network::look_again(&record)? {
            global.log().warn(&warning);
        }
    }
    let mut agent = Client::open(&record.vsock, hooks::guest_time(&spec, EXCHANGE_TIME))?;
    // Said before it is so: of a command that is killed in between, the container may run.
    record.status = Status::Running;
    held.write(&record)?;
    let started = agent.call(&Request::Start(ProcessId::init(CONTAINER)));
    if let Err(ClientError::Agent(_)) = &started {
        record.status = Status::Created;
        held.write(&record)?;
    }
    started?;
    // A hook may have something to do with the container.
    drop(held);
    // The program runs: that a hook fails is told, and changes nothing (section "Lifecycle").
    if let Err(error) = hooks::run(&spec, Kind::Poststart, &record) {
        global.log().warn(&crate::report::chain(&error));
    }
    Ok(())
}
