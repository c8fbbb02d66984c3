//! `ResizePty`: the size of a process's terminal.

use ampoule_protocol::message::Request;
use containerd_shim::protos::api::ResizePtyRequest;

use crate::shim::error::ShimError;
use crate::shim::process::Status;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn resize_pty(tasks: &Tasks, request: &ResizePtyRequest) -> Result<(), ShimError> {
    let (_, process) = tasks.find_process(&request.id, &request.exec_id)?;
    let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let (rows, columns) = (cells(request.height), cells(request.width));
    process.set_size(rows, columns);
    // A further process that is not started yet has it from its start.
    if process.spec.is_some() && *process.status() == Status::Created {
        return Ok(());
    }
    let id = process.guest()?.clone();
    tasks.sandbox()?.call(&Request::Resize { id, rows, columns })
}
