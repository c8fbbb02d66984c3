//! `Delete`: what is left of an ended container is removed.

use std::sync::Arc;

use super::Container;
use crate::Agent;
use crate::error::Result;
use crate::{disks, log};

/// Forgets a container that has ended or was never started. Its mounts went with the last process
/// of its mount namespace.
pub fn delete(agent: &Agent, name: &str) -> Result<()> {
    let container = agent.containers.find(name)?;
    container.state().may_delete(name)?;
    discard(agent, &container)
}

/// Kills and removes whatever there is of a container.
pub fn discard(agent: &Agent, container: &Arc<Container>) -> Result<()> {
    container.control().take();
    container.layer().take();
    agent.watcher.forget(&container.name);
    // All are collected before the group goes: what happens at a process's end is done to the
    // group by its name, which may be another container's from then on.
    let processes: Vec<_> = container.processes().by_name.values().cloned().collect();
    for process in processes {
        process.end(&agent.streams);
    }
    let removed = container.cgroup.remove();
    if removed.is_ok() {
        super::files::remove(&container.name);
        agent.containers.remove(container);
        for disk in &container.disks {
            if let Err(error) = disks::flush(disk) {
                log::line(&format!("container {:?}: {error}", container.name));
            }
        }
    }
    removed
}
