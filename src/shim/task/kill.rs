//! `Kill`: a signal for a process, or for all of a container.

use ampoule_protocol::message::Request;
use containerd_shim::protos::api::KillRequest;

use crate::shim::error::ShimError;
use crate::shim::process::{Exit, Status};
use crate::shim::spec::Kind;
use crate::shim::tasks::{Task, Tasks};

/// Signals that end a pod.
const ENDING: [u32; 4] = [
    libc::SIGHUP.unsigned_abs(),
    libc::SIGINT.unsigned_abs(),
    libc::SIGKILL.unsigned_abs(),
    libc::SIGTERM.unsigned_abs(),
];

/// Runs the method.
pub fn kill(tasks: &Tasks, request: &KillRequest) -> Result<(), ShimError> {
    let (task, process) = tasks.find_process(&request.id, &request.exec_id)?;
    let gone = || ShimError::NotFound("process already finished: not found".into());
    match *process.status() {
        Status::Stopped(_) if request.all => return Ok(()),
        Status::Stopped(_) => return Err(gone()),
        Status::Created if process.spec.is_some() => {
            let name = &request.exec_id;
            return Err(ShimError::WrongState(format!("process {name} is not started")));
        }
        Status::Created | Status::Running | Status::Paused => {}
    }
    if task.kind == Kind::Pod && request.exec_id.is_empty() {
        return end_pod(tasks, &task, request.signal);
    }
    let signal = i32::try_from(request.signal).ok().filter(|signal| (1..=64).contains(signal));
    let unknown = || ShimError::Usage(format!("unknown signal {}", request.signal));
    let signal = signal.ok_or_else(unknown)?;
    let id = process.guest()?.clone();
    tasks.sandbox()?.call(&Request::Kill { id, signal, all: request.all })
}

/// A pod ends with its sandbox, and takes with it what is still in it.
fn end_pod(tasks: &Tasks, task: &Task, signal: u32) -> Result<(), ShimError> {
    if !ENDING.contains(&signal) {
        return Ok(());
    }
    let ended = tasks.end_sandbox();
    tasks.sandbox_died();
    tasks.ended(&task.id, "", &task.init, Exit::now(128 + signal));
    ended
}
