//! `Exec`: a further process in a running container.

use ampoule_protocol::message::{Exec, INIT};

use super::launch::{self, Launch, Launched};
use super::process::Process;
use super::stdio::Stdio;
use super::{Container, name};
use crate::Agent;
use crate::error::{Error, Result};
use crate::setup::Job;

/// Runs a process; its pid. `body` is the request as it came.
pub fn exec(agent: &'static Agent, request: Exec, body: &[u8]) -> Result<i32> {
    name::check("process", &request.process)?;
    let container = agent.containers.find(&request.container)?;
    container.state().may_exec(&container.name)?;
    if container.process(&request.process).is_ok() {
        return Err(Error::AlreadyExists { what: "process", name: request.process });
    }
    let init = container.process(INIT)?;
    let stdio = Stdio::new(&request.stdio, request.spec.terminal().unwrap_or(false))?;

    let on_exit = {
        let container = container.clone();
        move |process: &Process, code| process.exited(container.exit_status(code))
    };
    let launched = Launch {
        job: Job::Join { namespaces: container.namespaces, pid: init.pid() },
        requests: &[body, &container.request],
        cgroup: &container.cgroup,
        join: Some(init.pidfd()),
        network: None,
        stdio,
    };
    let Launched { process, control, .. } = launch::launch(agent, launched, on_exit)?;
    let started = container
        .add_process(&request.process, process.clone())
        .and_then(|()| launch::start(&control));
    if let Err(e) = started {
        container.forget(&request.process, &process);
        process.end(&agent.streams);
        return Err(e);
    }
    Ok(process.pid())
}

impl Container {
    /// Forgets a process that never executed its program.
    fn forget(&self, name: &str, process: &std::sync::Arc<Process>) {
        let mut processes = self.processes();
        if processes.by_name.get(name).is_some_and(|p| std::sync::Arc::ptr_eq(p, process)) {
            processes.by_name.remove(name);
            processes.order.retain(|n| n != name);
        }
    }
}
