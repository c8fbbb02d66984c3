//! `Pause` and `Resume`: all processes of a container stand still.

use crate::Agent;
use crate::error::Result;

/// Freezes a container and waits until all its processes stand still.
pub fn pause(agent: &Agent, name: &str) -> Result<()> {
    let container = agent.containers.find(name)?;
    container.state().pause(name)?;
    let frozen = container.cgroup.freeze();
    if frozen.is_err() {
        // The failure is the one to tell. It has ended meanwhile where there is nothing to resume.
        let _ = container.state().resume(name);
        let _ = container.cgroup.thaw();
    }
    frozen
}

/// Lets a frozen container go on.
pub fn resume(agent: &Agent, name: &str) -> Result<()> {
    let container = agent.containers.find(name)?;
    let mut state = container.state();
    let mut resumed = *state;
    resumed.resume(name)?;
    container.cgroup.thaw()?;
    *state = resumed;
    Ok(())
}
