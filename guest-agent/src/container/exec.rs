//! `Exec`: a further process in a running container.

use ampoule_protocol::message::{Exec, UserName};
use oci_spec::runtime::{Process as ProcessSpec, User};

use super::launch::{self, Launch};
use super::process::Process;
use super::stdio::Stdio;
use super::{Container, name};
use crate::error::Result;
use crate::setup::{Job, Work};
use crate::{Agent, spec};
use ampoule_protocol::message::INIT;

/// Runs a process; its pid.
pub fn exec(agent: &'static Agent, request: Exec) -> Result<i32> {
    name::check("process", &request.process)?;
    let container = agent.containers.find(&request.container)?;
    container.state().may_exec(&container.name)?;
    if container.process(&request.process).is_ok() {
        let name = request.process;
        return Err(crate::error::Error::AlreadyExists {
            what: "process",
            name,
        });
    }
    let init = container.process(INIT)?;

    let (process, user) = if request.inherit {
        inherit(&container, *request.spec, request.user)
    } else {
        (*request.spec, request.user)
    };
    spec::check_process(&process)?;
    let stdio = Stdio::new(&request.stdio, process.terminal().unwrap_or(false))?;
    let job = Job {
        work: Work::Join {
            namespaces: container.namespaces,
        },
        process,
        user,
    };

    let on_exit = {
        let container = container.clone();
        move |process: &Process, code| process.exited(container.exit_status(code))
    };
    let launched = Launch {
        job: &job,
        cgroup: &container.cgroup,
        join: Some(init.pidfd()),
        stdio,
    };
    let (process, control) = launch::launch(agent, launched, on_exit)?;
    let started = container
        .add_process(&request.process, process.clone())
        .and_then(|()| launch::start(&control));
    if let Err(e) = started {
        let _ = process.signal(libc::SIGKILL);
        container.forget(&request.process, &process);
        process.abandon(&agent.streams);
        return Err(e);
    }
    Ok(process.pid())
}

/// What `spec` does not name itself is the first process's.
fn inherit(
    container: &Container,
    mut spec: ProcessSpec,
    user: Option<UserName>,
) -> (ProcessSpec, Option<UserName>) {
    let first = &container.spec;
    if spec.capabilities().is_none() {
        spec.set_capabilities(first.capabilities().clone());
    }
    if spec.rlimits().is_none() {
        spec.set_rlimits(first.rlimits().clone());
    }
    if spec.no_new_privileges().is_none() {
        spec.set_no_new_privileges(first.no_new_privileges());
    }
    if spec.oom_score_adj().is_none() {
        spec.set_oom_score_adj(first.oom_score_adj());
    }
    if spec.cwd().as_os_str().is_empty() {
        spec.set_cwd(first.cwd().clone());
    }
    let mut env = first.env().clone().unwrap_or_default();
    for own in spec.env().iter().flatten() {
        let name = own.split('=').next().unwrap_or(own);
        env.retain(|e| e.split('=').next().unwrap_or(e) != name);
        env.push(own.clone());
    }
    spec.set_env(Some(env));
    if user.is_none() && *spec.user() == User::default() {
        spec.set_user(first.user().clone());
        return (spec, container.user.clone());
    }
    (spec, user)
}

impl Container {
    /// Forgets a process that never executed its program.
    fn forget(&self, name: &str, process: &std::sync::Arc<Process>) {
        let mut processes = self.processes();
        if processes
            .by_name
            .get(name)
            .is_some_and(|p| std::sync::Arc::ptr_eq(p, process))
        {
            processes.by_name.remove(name);
            processes.order.retain(|n| n != name);
        }
    }
}
