//! `BecomeTemplate`: what all later guests need is done now, once for all of them.

use crate::Agent;
use crate::error::{Error, Result};

/// Gets ready for a snapshot. The caller lets go of the host when it has told it so. `networked`
/// guests have a network namespace prepared.
///
/// # Errors
/// There are containers: their twins would take each other's place.
pub fn become_template(agent: &Agent, networked: bool) -> Result<()> {
    if !agent.containers.is_empty() {
        return Err(Error::WrongState("a guest with containers cannot become a template".into()));
    }
    if networked {
        agent.prepared.make()?;
    }
    agent.disks.look_up()
}
