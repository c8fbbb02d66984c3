//! `Kill`: signals to one process, or to all of a container.

use ampoule_protocol::message::ProcessId;

use super::find;
use super::process::{pidfd_open, pidfd_send_signal};
use crate::Agent;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};

/// Sends a signal.
pub fn kill(agent: &Agent, id: &ProcessId, signal: i32, all: bool) -> Result<()> {
    if !(1..=64).contains(&signal) {
        return Err(Error::Invalid(format!("{signal} is no signal")));
    }
    let container = agent.containers.find(&id.container)?;
    if !all {
        return find(agent, id)?.signal(signal);
    }
    container.state().may_kill(&container.name)?;
    if signal == libc::SIGKILL {
        return container.cgroup.kill();
    }
    signal_all(&container.cgroup, signal)
}

/// A pid of a list may have been given to another process by the time that it is used. A process
/// that was opened between two lists which both have its pid, and that still lives, is the one
/// that the second list means.
fn signal_all(cgroup: &Cgroup, signal: i32) -> Result<()> {
    let opened: Vec<_> = cgroup
        .pids()?
        .into_iter()
        .filter_map(|pid| pidfd_open(pid).ok().map(|fd| (pid, fd)))
        .collect();
    let still = cgroup.pids()?;
    for (pid, fd) in opened {
        if still.contains(&pid) {
            // Fails only where the process has ended meanwhile.
            let _ = pidfd_send_signal(&fd, signal);
        }
    }
    Ok(())
}

/// Kills every process of every container and waits until they are gone.
pub fn kill_everything(agent: &Agent) {
    let containers = agent.containers.all();
    for container in &containers {
        let _ = container.cgroup.kill();
    }
    for container in &containers {
        let _ = container.cgroup.wait_until_empty();
    }
}
