//! `Delete`: a process that has ended is forgotten, and with a container's first one the container.

use containerd_shim::protos::api::DeleteResponse;

use crate::oci::hooks::Kind as HookKind;
use crate::shim::error::ShimError;
use crate::shim::process::{Exit, KILLED, Process, Status};
use crate::shim::spec::Kind;
use crate::shim::tasks::Tasks;

/// Runs the method.
pub fn delete(tasks: &Tasks, id: &str, exec: &str) -> Result<DeleteResponse, ShimError> {
    let (task, process) = tasks.find_process(id, exec)?;
    let pid = tasks.pid();
    if !exec.is_empty() {
        let exit = ended(&process, exec)?;
        task.forget(exec);
        return Ok(response(pid, exit));
    }
    let exit = ended(&process, id)?;
    let forgotten = match task.kind {
        Kind::Pod | Kind::Alone => tasks.end_sandbox(),
        Kind::PodContainer { .. } => match tasks.sandbox() {
            Ok(sandbox) => sandbox.delete(&process, &task.seen),
            Err(_) => Ok(()),
        },
    };
    // Nothing that is left keeps the caller from forgetting it: it is told in the log.
    if let Err(error) = forgotten {
        log::error!("container {id}: {}", crate::report::chain(&error));
    }
    task.unmount();
    if let Err(error) = task.run_hooks(HookKind::Poststop, pid) {
        log::warn!("container {id}: {}", crate::report::chain(&error));
    }
    tasks.ended(id, "", &process, exit);
    tasks.forget(id);
    tasks.events.delete(id, pid, exit);
    Ok(response(pid, exit))
}

/// How a process ended; one that was never started has not begun.
fn ended(process: &Process, name: &str) -> Result<Exit, ShimError> {
    match *process.status() {
        Status::Stopped(exit) => Ok(exit),
        Status::Created => Ok(Exit::now(KILLED)),
        Status::Running | Status::Paused => {
            Err(ShimError::WrongState(format!("process {name} is running: kill it first")))
        }
    }
}

fn response(pid: u32, exit: Exit) -> DeleteResponse {
    DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: exit.timestamp(),
        ..Default::default()
    }
}
