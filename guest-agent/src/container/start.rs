//! `Start`: a created container's first process executes its program.

use ampoule_protocol::message::{INIT, ProcessId};

use super::launch;
use crate::Agent;
use crate::error::{Error, Result};

/// Lets the first process of a created container go.
pub fn start(agent: &Agent, id: &ProcessId) -> Result<()> {
    let container = agent.containers.find(&id.container)?;
    if id.process != INIT {
        container.process(&id.process)?;
        return Err(Error::WrongState(format!("process {:?} was started already", id.process)));
    }
    container.state().start(&container.name)?;
    let control = container.control().take();
    match control {
        Some(control) => launch::start(&control),
        None => Err(Error::WrongState(format!("container {:?} was started", container.name))),
    }
}
