//! `Start`: the program of a process that was created.

use std::sync::Arc;
use std::thread;

use ampoule_protocol::message::{Exec, Request};

use crate::oci::hooks::Kind as HookKind;
use crate::sandbox::container::{self, Running};
use crate::sandbox::streams::Streams;
use crate::sandbox::trace;
use crate::shim::error::{ShimError, host};
use crate::shim::process::{Process, Status, await_exit};
use crate::shim::spec::Kind;
use crate::shim::tasks::{Task, Tasks};

/// Stack of a thread that waits for a process.
const STACK: usize = 128 << 10;

/// Runs the method: the pid that stands for the process.
pub fn start(tasks: &Arc<Tasks>, id: &str, exec: &str) -> Result<u32, ShimError> {
    let (task, process) = tasks.find_process(id, exec)?;
    // Held until containerd is told of the start: its end is told after that.
    let mut status = process.status();
    let name = if exec.is_empty() { id } else { exec };
    match *status {
        Status::Created => {}
        Status::Running | Status::Paused => {
            return Err(ShimError::WrongState(format!("process {name} was started already")));
        }
        Status::Stopped(exit) => {
            let status = exit.status;
            return Err(ShimError::WrongState(format!(
                "process {name} has ended already, with status {status}"
            )));
        }
    }
    let _span = trace::begin("started", if exec.is_empty() { id } else { exec });
    let pid = tasks.pid();
    if !exec.is_empty() {
        let running = further(tasks, &process)?;
        *status = Status::Running;
        tasks.events.exec_started(id, exec, pid);
        drop(status);
        watch(tasks, &task, exec, process, running)?;
        return Ok(pid);
    }
    let sandbox = tasks.sandbox()?;
    // Callers that find the namespace by a pid fill it between the creation and this.
    if !matches!(task.kind, Kind::PodContainer { .. }) {
        sandbox.rescan_network()?;
    }
    if let Some(guest) = &process.guest {
        sandbox.call(&Request::Start(guest.clone()))?;
        process.begin_input()?;
    }
    *status = Status::Running;
    tasks.events.start(id, pid);
    // Its failure does not undo the start, as the specification has it.
    if let Err(error) = task.run_hooks(HookKind::Poststart, pid) {
        log::warn!("container {id}: {}", crate::report::chain(&error));
    }
    Ok(pid)
}

/// A further process, with its streams.
fn further(tasks: &Tasks, process: &Process) -> Result<Running, ShimError> {
    let guest = process.guest()?;
    let spec = process.spec.clone();
    let mut spec = spec.ok_or_else(|| ShimError::not_found("process", &guest.process))?;
    process.size_into(&mut spec);
    let (ends, mut pipes) = process.paths.open()?;
    let request = Exec {
        container: guest.container.clone(),
        process: guest.process.clone(),
        stdio: Streams::names(&guest.process, &ends, process.paths.terminal),
        spec,
        user: None,
        inherit: false,
    };
    let mut running = container::exec(tasks.sandbox()?.vsock(), request, &ends)?;
    pipes.lead_to(running.streams.take_input());
    process.set_pipes(pipes);
    process.begin_input()?;
    Ok(running)
}

/// Tells of a process's end, when it comes.
pub fn watch(
    tasks: &Arc<Tasks>,
    task: &Task,
    exec: &str,
    process: Arc<Process>,
    running: Running,
) -> Result<(), ShimError> {
    let (tasks, id, exec) = (Arc::clone(tasks), task.id.clone(), exec.to_owned());
    let alone = task.kind == Kind::Alone && exec.is_empty();
    let wait = move || {
        let exit = await_exit(running);
        tasks.ended(&id, &exec, &process, exit);
        if alone && let Err(error) = tasks.end_sandbox() {
            log::error!("{}", crate::report::chain(&error));
        }
    };
    let thread = thread::Builder::new().name("wait".into()).stack_size(STACK);
    thread.spawn(wait).map(drop).map_err(host("start a thread"))
}
