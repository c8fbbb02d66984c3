//! `CloseIO`: nobody will write to a process's input any more.

use containerd_shim::protos::api::CloseIORequest;

use crate::shim::error::ShimError;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn close_io(tasks: &Tasks, request: &CloseIORequest) -> Result<(), ShimError> {
    let (_, process) = tasks.find_process(&request.id, &request.exec_id)?;
    if request.stdin {
        process.close_stdin();
    }
    Ok(())
}
