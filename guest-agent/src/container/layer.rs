//! Where a container's files are.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ampoule_protocol::message::INIT;

use crate::Agent;
use crate::error::{Error, Result};
use crate::setup::Root;

/// What a container has changed of its root file system, and what that was.
#[derive(Debug)]
pub struct Layer {
    /// The overlay's upper directory.
    pub upper: OwnedFd,
    /// Its lower directory.
    pub lower: OwnedFd,
}

impl Layer {
    /// Of the two directories.
    pub fn new([upper, lower]: [OwnedFd; 2]) -> Arc<Self> {
        Arc::new(Self { upper, lower })
    }
}

/// The root of a container's first process, with all that is mounted in it.
pub fn root(agent: &Agent, name: &str) -> Result<Root> {
    let container = agent.containers.find(name)?;
    container.state().may_copy(name)?;
    let process = container.process(INIT)?;
    let root = Root::open(format!("/proc/{}/root", process.pid()))?;
    // Looked at after it was opened: the number was this process's.
    process.signal(0)?;
    Ok(root)
}

/// The layer of a container.
///
/// # Errors
/// It has none, or has ended.
pub fn layer(agent: &Agent, name: &str) -> Result<Arc<Layer>> {
    let container = agent.containers.find(name)?;
    container.state().may_copy(name)?;
    let layer = container.layer().clone();
    layer.ok_or_else(|| Error::WrongState(format!("container {name:?} has no layer of its own")))
}
