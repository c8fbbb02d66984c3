//! `Pause`: all processes of a container stand still.

use ampoule_protocol::message::Request;

use crate::shim::error::ShimError;
use crate::shim::process::Status;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn pause(tasks: &Tasks, id: &str) -> Result<(), ShimError> {
    let task = tasks.find(id)?;
    let container = task.init.guest()?.container.clone();
    let mut status = task.init.status();
    if *status != Status::Running {
        return Err(ShimError::WrongState(format!("container {id} is not running")));
    }
    tasks.sandbox()?.call(&Request::Pause { container })?;
    *status = Status::Paused;
    tasks.events.paused(id);
    Ok(())
}
