//! `Resume`: a container that stands still goes on.

use ampoule_protocol::message::Request;

use crate::shim::error::ShimError;
use crate::shim::process::Status;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn resume(tasks: &Tasks, id: &str) -> Result<(), ShimError> {
    let task = tasks.find(id)?;
    let container = task.init.guest()?.container.clone();
    let mut status = task.init.status();
    if *status != Status::Paused {
        return Err(ShimError::WrongState(format!("container {id} is not paused")));
    }
    tasks.sandbox()?.call(&Request::Resume { container })?;
    *status = Status::Running;
    tasks.events.resumed(id);
    Ok(())
}
