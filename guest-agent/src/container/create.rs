//! `Create`: a container and its first process, up to the point where that waits for the start.

use std::sync::{Arc, Mutex};

use ampoule_protocol::message::{Create, INIT};

use super::launch::{Launch, launch};
use super::process::Process;
use super::state::State;
use super::stdio::Stdio;
use super::{Container, Processes, delete, name};
use crate::cgroup::{Cgroup, limits};
use crate::error::Result;
use crate::setup::{Job, Work};
use crate::{Agent, spec};

/// Makes a container; the pid of its first process.
pub fn create(agent: &'static Agent, request: Create) -> Result<i32> {
    name::check("container", &request.container)?;
    let mut spec = *request.spec;
    let process = spec::check(&spec)?.clone();
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().clone());
    let limits = limits::plan(&resources.unwrap_or_default())?;
    let stdio = Stdio::new(&request.stdio, process.terminal().unwrap_or(false))?;
    spec.set_process(None);

    let container = Arc::new(Container {
        cgroup: Cgroup::of_container(&request.container),
        name: request.container,
        spec: process.clone(),
        user: request.user.clone(),
        namespaces: spec::namespaces(&spec).bits(),
        state: Mutex::new(State::Creating),
        control: Mutex::default(),
        processes: Mutex::new(Processes::default()),
    });
    agent.containers.add(container.clone())?;
    let job = Job {
        work: Work::Create {
            spec: Box::new(spec),
            rootfs: request.rootfs,
        },
        process,
        user: request.user,
    };
    let created = populate(agent, &container, &limits, &job, stdio);
    if created.is_err() {
        // The first failure is the one to tell.
        let _ = delete::discard(agent, &container);
    }
    created
}

fn populate(
    agent: &'static Agent,
    container: &Arc<Container>,
    limits: &limits::Plan,
    job: &Job,
    stdio: Stdio,
) -> Result<i32> {
    container.cgroup.create()?;
    container.cgroup.apply(limits)?;
    agent
        .watcher
        .watch_memory(&container.name, &container.cgroup);
    let on_exit = {
        let container = container.clone();
        move |process: &Process, code| container.init_exited(process, code)
    };
    let (process, control) = launch(
        agent,
        Launch {
            job,
            cgroup: &container.cgroup,
            join: None,
            stdio,
        },
        on_exit,
    )?;
    container.add_process(INIT, process.clone())?;
    *container.control() = Some(control);
    container.state().created();
    Ok(process.pid())
}
