//! Forks a running sandbox: its guest, with all its processes as they are, goes on in further
//! sandboxes.
//!
//! The guest is written to memory that has no name on the host, so that nothing is left behind
//! whatever happens; all forks share its pages until they write to them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use ampoule_protocol::message::Request;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::detach;
use super::error::SandboxError;
use super::layer;
use super::mounts::MountPoint;
use super::options::Options;
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
    /// Id of the image of the container that it is forked from.
    pub image: String,
    /// File that holds the image's file system.
    pub rootfs: PathBuf,
    /// Program and arguments of its container.
    pub command: Vec<String>,
    /// Pid of its first process in the guest.
    #[serde(default)]
    pub init: Option<i32>,
    /// What was asked of the container; with a name of its own.
    pub options: Options,
}

/// A guest that was written down.
#[derive(Debug)]
pub struct Frozen {
    /// Everything but the memory.
    pub state: File,
    /// The memory.
    pub memory: File,
    /// The disk with what its container has written, where there is one.
    pub layer: Option<File>,
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
    refuse_sharing(&entry)?;
    if entry.state.mounts.iter().any(MountPoint::is_shared) {
        return Err(SandboxError::NotForked {
            name: entry.state.name,
            reason: "it has directories of the host mounted, and what its kernel knows of their files \
                     is that of one guest",
        });
    }
    let record = entry.record()?;
    let frozen = freeze(places, &entry)?;
    // Whoever was let in meanwhile is in what was written down.
    refuse_sharing(&Registry::new(places).find(&entry.state.id)?)?;
    for name in names {
        let fork = Fork {
            image: record.image.clone(),
            rootfs: entry.state.rootfs.clone(),
            command: entry.state.command.clone(),
            init: entry.state.init,
            options: Options { name: name.clone(), ..record.options.clone() },
        };
        made(&detach::fork(places, &fork, &frozen).map_err(Box::new)?);
    }
    Ok(())
}

/// A fork has the disks of one container.
fn refuse_sharing(entry: &Entry) -> Result<(), SandboxError> {
    let reason = match (&entry.state.guest, entry.state.joined.is_empty()) {
        (Some(_), _) => "it is in the sandbox of another container, whose network it shares",
        (None, false) => "other containers are in its sandbox, which share its network",
        (None, true) => return Ok(()),
    };
    Err(SandboxError::NotForked { name: entry.state.name.clone(), reason })
}

/// Writes the guest down while it stands still for a moment.
fn freeze(places: &Places, entry: &Entry) -> Result<Frozen, SandboxError> {
    let layer = entry.state.layer.then(|| layer::unnamed(places, &entry.state.id)).transpose()?;
    let frozen = Frozen { state: unnamed("state")?, memory: unnamed("memory")?, layer };
    let mut agent = Client::open(&entry.folder.vsock(), EXCHANGE_TIME)?;
    // In the forks, all connections to the host break: their processes are not to notice.
    agent.call(&Request::Hold)?;
    let saved = save(places, entry, &frozen);
    let released = agent.call(&Request::Release);
    saved?;
    released?;
    Ok(frozen)
}

fn save(places: &Places, entry: &Entry, frozen: &Frozen) -> Result<(), SandboxError> {
    let unreachable = SandboxError::host("cannot reach the sandbox's monitor");
    let monitor = Channel::connect(&entry.folder.control()).map_err(&unreachable)?;
    monitor.set_patience(SNAPSHOT_TIME).map_err(&unreachable)?;
    let ask = |request, descriptors: &[BorrowedFd<'_>]| {
        monitor.send_with(&request, descriptors)?;
        match monitor.receive()? {
            Some(MonitorEvent::Done) => Ok(()),
            Some(MonitorEvent::Refused { message }) => Err(SandboxError::Refused(message)),
            _ => Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
        }
    };
    let snapshot = MonitorRequest::Snapshot { checksum: false };
    let files = [frozen.state.as_fd(), frozen.memory.as_fd()];
    let Some(layer) = &frozen.layer else { return ask(snapshot, &files) };
    // Nothing is written between the memory and the disk that belongs to it.
    ask(MonitorRequest::Pause, &[])?;
    let saved =
        ask(snapshot, &files).and_then(|()| Ok(layer::copy_to(places, &entry.state.id, layer)?));
    let resumed = ask(MonitorRequest::Resume, &[]);
    saved.and(resumed)
}

fn unnamed(name: &str) -> Result<File, SandboxError> {
    let memory: OwnedFd = memfd_create(name, MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| SandboxError::host("cannot make room for a fork")(errno.into()))?;
    Ok(memory.into())
}
