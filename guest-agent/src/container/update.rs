//! `Update`: other limits for a container that is there.

use oci_spec::runtime::LinuxResources;

use crate::Agent;
use crate::cgroup::limits;
use crate::error::{Error, Result};

/// Changes the limits that the resources name.
pub fn update(agent: &Agent, name: &str, resources: &LinuxResources) -> Result<()> {
    let plan = limits::plan(resources)?;
    let container = agent.containers.find(name)?;
    container.state().may_update(name)?;
    if let Some(memory) = resources.memory()
        && memory.check_before_update() == Some(true)
    {
        let used = container.cgroup.memory_used().unwrap_or(0);
        if let Some(limit) = memory.limit().and_then(|limit| u64::try_from(limit).ok())
            && (1..used).contains(&limit)
        {
            return Err(Error::Invalid(format!(
                "memory.limit {limit} is below the usage of {used} bytes"
            )));
        }
    }
    container.cgroup.apply(&plan)
}
