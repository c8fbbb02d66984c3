//! One request to the agent of a container's sandbox.

use std::time::Duration;

use ampoule_protocol::message::{ErrorKind, Reply, Request};

use super::OciError;
use super::record::Record;
use crate::agent::{Client, ClientError};

/// Connects to the agent of a container that has a keeper.
pub fn connect(record: &Record, time: Duration) -> Result<Client, OciError> {
    Client::open(&record.vsock, time).map_err(told)
}

/// Asks the agent something, and takes its answer.
pub fn ask(record: &Record, request: &Request, time: Duration) -> Result<Reply, OciError> {
    connect(record, time)?.ask(request).map_err(told)
}

/// Asks the agent to do something, and waits until it is done.
pub fn call(record: &Record, request: &Request, time: Duration) -> Result<(), OciError> {
    connect(record, time)?.call(request).map_err(told)
}

/// In the words that callers know.
pub fn told(error: ClientError) -> OciError {
    match error {
        ClientError::Agent(error)
            if matches!(error.kind, ErrorKind::WrongState | ErrorKind::NotFound) =>
        {
            OciError::NotRunning
        }
        // It has ended in this moment.
        ClientError::Connect(_) => OciError::NotRunning,
        error => error.into(),
    }
}
