//! What other commands ask of a sandbox whose keeper is another process: stop, remove.

use std::io;
use std::time::Duration;

use ampoule_protocol::message::{ProcessId, Request};
use nix::sys::signal::Signal;

use super::container::CONTAINER;
use super::error::SandboxError;
use super::registry::{Entry, Registry};
use super::state::Status;
use crate::agent::Client;
use crate::process::Process;

/// How long each message to an agent may take: one that does not listen is not asked twice.
const ASK_TIME: Duration = Duration::from_secs(5);

/// How long a keeper may take to clear away after its container's end.
const CLEAR_AWAY: Duration = Duration::from_secs(30);

/// Asks the container's program to end with `signal`, and kills it where it has not done so within
/// `grace`. Returns when its keeper has cleared away; at once where it is not running.
pub fn stop(
    registry: &Registry,
    wanted: &str,
    signal: Signal,
    grace: Option<Duration>,
) -> Result<Entry, SandboxError> {
    let entry = registry.find(wanted)?;
    if entry.state.status == Status::Exited {
        return Ok(entry);
    }
    let Some(keeper) = keeper(&entry) else {
        return Ok(entry);
    };
    // A sandbox that is still being started has no agent to ask: its keeper is asked to give up.
    if entry.state.status == Status::Created || !ask(&entry, signal) {
        unless_ended(keeper.signal(Signal::SIGTERM))
            .map_err(SandboxError::host("cannot signal the container's keeper"))?;
    }
    if within(&keeper, grace)? {
        return Ok(entry);
    }
    kill(&entry, &keeper)?;
    Ok(entry)
}

/// Removes the container's record; with `force` also a running container.
pub fn remove(registry: &Registry, wanted: &str, force: bool) -> Result<(), SandboxError> {
    let entry = registry.find(wanted)?;
    if entry.state.status != Status::Exited {
        if !force {
            return Err(SandboxError::Running(entry.state.name));
        }
        if let Some(keeper) = keeper(&entry) {
            kill(&entry, &keeper)?;
        }
    }
    Ok(registry.remove_entry(&entry)?)
}

/// Kills the program; where the guest does not heed that, the machine.
fn kill(entry: &Entry, keeper: &Process) -> Result<(), SandboxError> {
    if ask(entry, Signal::SIGKILL) && within(keeper, Some(CLEAR_AWAY))? {
        return Ok(());
    }
    // A keeper reaps its monitor only when it ends itself: its lock is looked at after the handle
    // is made.
    if let Some(monitor) = entry.state.monitor.and_then(|pid| Process::of(pid).ok())
        && entry.folder.is_kept()
    {
        unless_ended(monitor.signal(Signal::SIGKILL))
            .map_err(SandboxError::host("cannot kill the monitor"))?;
    }
    if within(keeper, Some(CLEAR_AWAY))? {
        return Ok(());
    }
    Err(SandboxError::DoesNotEnd(entry.state.name.clone(), entry.state.keeper))
}

/// Whether the agent took the request.
fn ask(entry: &Entry, signal: Signal) -> bool {
    let id = ProcessId::init(CONTAINER);
    let request = Request::Kill { id, signal: signal as i32, all: false };
    Client::open(&entry.folder.vsock(), ASK_TIME)
        .is_ok_and(|mut agent| agent.call(&request).is_ok())
}

/// A process that has ended meanwhile needs no signal.
fn unless_ended(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// The process that keeps a sandbox; `None` where it has ended meanwhile.
fn keeper(entry: &Entry) -> Option<Process> {
    let process = Process::of(entry.state.keeper).ok()?;
    // Looked at after the handle was made: the lock is held, so the pid was the keeper's.
    entry.folder.is_kept().then_some(process)
}

fn within(keeper: &Process, time: Option<Duration>) -> Result<bool, SandboxError> {
    keeper.ends_within(time).map_err(SandboxError::host("cannot wait for the container's keeper"))
}
