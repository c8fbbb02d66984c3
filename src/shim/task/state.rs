//! `State`: how far a process is.

use containerd_shim::protos::api::{StateRequest, StateResponse, Status as Named};

use crate::shim::error::ShimError;
use crate::shim::process::Status;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn state(tasks: &Tasks, request: &StateRequest) -> Result<StateResponse, ShimError> {
    let (task, process) = tasks.find_process(&request.id, &request.exec_id)?;
    let paths = &process.paths;
    let mut response = StateResponse {
        id: task.id.clone(),
        exec_id: request.exec_id.clone(),
        bundle: task.bundle.display().to_string(),
        pid: tasks.pid(),
        stdin: paths.stdin.clone(),
        stdout: paths.stdout.clone(),
        stderr: paths.stderr.clone(),
        terminal: paths.terminal,
        ..Default::default()
    };
    let status = *process.status();
    response.status = match status {
        Status::Created => Named::CREATED,
        Status::Running => Named::RUNNING,
        Status::Paused => Named::PAUSED,
        Status::Stopped(exit) => {
            response.exit_status = exit.status;
            response.exited_at = exit.timestamp();
            Named::STOPPED
        }
    }
    .into();
    Ok(response)
}
