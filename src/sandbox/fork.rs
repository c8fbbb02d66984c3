//! Forks a running sandbox: its guest, with all its processes as they are, goes on in further
//! sandboxes.
//!
//! The guest is written to memory that has no name on the host, so that nothing is left behind
//! whatever happens; all forks share its pages until they write to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use ampoule_protocol::message::Request;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::detach;
use super::error::SandboxError;
use super::places::Places;
use super::registry::{Entry, Registry};
use super::state::Status;
use crate::agent::{Client, EXCHANGE_TIME};
use crate::monitor::channel::Channel;
use crate::monitor::control::{MonitorEvent, MonitorRequest};
use crate::monitor::group::Size;
use crate::vmm::config::MAX_VCPUS;

/// How long a monitor may take to write its guest down.
const SNAPSHOT_TIME: Duration = Duration::from_secs(60);

/// A sandbox that a fork becomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Image of the sandbox that it is forked from.
    pub image: String,
    /// File that holds the image's file system.
    pub rootfs: PathBuf,
    /// Program and arguments of its container.
    pub command: Vec<String>,
    /// Its own name; a random one by default.
    pub name: Option<String>,
    /// Its container's first process has a terminal.
    pub terminal: bool,
    /// Its record goes when its container ends.
    pub remove: bool,
}

/// A guest that was written down.
#[derive(Debug)]
pub struct Frozen {
    /// Everything but the memory.
    pub state: File,
    /// The memory.
    pub memory: File,
}

impl Frozen {
    /// What a monitor of this guest is limited to.
    pub fn size(&self) -> Size {
        let bytes = self.memory.metadata().map_or(u64::MAX, |metadata| metadata.len());
        Size { memory_mib: u32::try_from(bytes >> 20).unwrap_or(u32::MAX), vcpus: MAX_VCPUS }
    }
}

/// Forks the running sandbox `wanted` into one for each name; `made` is called with the id of each
/// as soon as it runs. The sandbox itself goes on.
pub fn fork(
    places: &Places,
    wanted: &str,
    names: &[Option<String>],
    mut made: impl FnMut(&str),
) -> Result<(), SandboxError> {
    let entry = Registry::new(places).find(wanted)?;
    if entry.state.status != Status::Running {
        let (name, status) = (entry.state.name, entry.state.status);
        return Err(SandboxError::NotRunning { name, status });
    }
    let frozen = freeze(&entry)?;
    for name in names {
        let fork = Fork {
            image: entry.state.image.clone(),
            rootfs: entry.state.rootfs.clone(),
            command: entry.state.command.clone(),
            name: name.clone(),
            terminal: entry.state.terminal,
            remove: entry.state.remove,
        };
        made(&detach::fork(places, &fork, &frozen).map_err(Box::new)?);
    }
    Ok(())
}

/// Writes the guest down while it stands still for a moment.
fn freeze(entry: &Entry) -> Result<Frozen, SandboxError> {
    let frozen = Frozen { state: unnamed("state")?, memory: unnamed("memory")? };
    let mut agent = Client::open(&entry.folder.vsock(), EXCHANGE_TIME)?;
    // In the forks, all connections to the host break: their processes are not to notice.
    agent.call(&Request::Hold)?;
    let saved = save(entry, &frozen);
    let released = agent.call(&Request::Release);
    saved?;
    released?;
    Ok(frozen)
}

fn save(entry: &Entry, frozen: &Frozen) -> Result<(), SandboxError> {
    let unreachable = SandboxError::host("cannot reach the sandbox's monitor");
    let monitor = Channel::connect(&entry.folder.control()).map_err(&unreachable)?;
    monitor.set_patience(SNAPSHOT_TIME).map_err(&unreachable)?;
    let request = MonitorRequest::Snapshot { checksum: false };
    monitor.send_with(&request, &[frozen.state.as_fd(), frozen.memory.as_fd()])?;
    match monitor.receive()? {
        Some(MonitorEvent::Done) => Ok(()),
        Some(MonitorEvent::Refused { message }) => Err(SandboxError::Refused(message)),
        _ => Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn unnamed(name: &str) -> Result<File, SandboxError> {
    let memory: OwnedFd = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| SandboxError::host("cannot make room for a fork")(errno.into()))?;
    Ok(memory.into())
}
