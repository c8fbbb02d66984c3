//! What other commands ask of a container whose keeper is another process: start, stop, kill, pause,
//! remove, wait.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ampoule_protocol::message::{ProcessId, Request};
use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use super::detach;
use super::error::SandboxError;
use super::events;
use super::keeper_socket::{self, Ask};
use super::monitored::wait as wait_for;
use super::mounts;
use super::network;
use super::options::Options;
use super::places::Places;
use super::record::Record;
use super::registry::{Entry, InGuest, Registry};
use super::signals;
use super::spec;
use super::state::Status;
use crate::agent::{Client, ClientError};
use crate::image::Image;
use crate::process::Process;

/// How long each message to an agent may take: one that does not listen is not asked twice.
const ASK_TIME: Duration = Duration::from_secs(5);

/// Seconds that a container has to end (docker's).
const GRACE: i64 = 10;

/// How long a keeper may take to clear away after its container's end.
const CLEAR_AWAY: Duration = Duration::from_secs(30);

/// Makes a container, which is not started: its id.
pub fn create(places: &Places, image: &Image, options: Options) -> Result<String, SandboxError> {
    let command = spec::command(&image.config, &options)?;
    let options = options.settled(image)?;
    let registry = Registry::new(places);
    let kept = registry.create(options.name.as_deref())?;
    let mut state =
        super::State::new(kept.id.clone(), kept.name.clone(), options.image.clone(), command);
    (state.terminal, state.remove) = (options.terminal, options.remove);
    (state.mounts, state.layer) = (options.mounts.clone(), options.layer_size.is_some());
    let record = Record::new(kept.id.clone(), image.id.to_string(), options);
    state.created = record.created;
    let written = kept.write_record(&record);
    match written.and_then(|()| Ok(state.write(&kept.folder.state())?)) {
        Ok(()) => {
            let id = kept.id.clone();
            registry.rest(kept)?;
            events::tell(places, "create", &state, &[]);
            Ok(id)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = registry.remove(kept);
            Err(error.into())
        }
    }
}

/// Starts a container that does not run, in the background; nothing to do for one that runs.
pub fn start(registry: &Registry, wanted: &str) -> Result<Entry, SandboxError> {
    let entry = registry.find(wanted)?;
    if entry.state.status == Status::Paused {
        return Err(SandboxError::Paused(entry.state.name));
    }
    if at_rest(&entry)? {
        detach::restart(registry.places(), &entry.state.id).map_err(Box::new)?;
    }
    Ok(entry)
}

/// Whether nobody keeps the container; one whose keeper is clearing away is waited for.
pub fn at_rest(entry: &Entry) -> Result<bool, SandboxError> {
    if entry.state.status == Status::Exited
        && let Some(keeper) = keeper(entry)
        && !within(&keeper, Some(CLEAR_AWAY))?
    {
        return Err(does_not_end(entry));
    }
    let kept = entry.folder.is_kept();
    if kept && entry.folder.copied().exists() {
        return Err(SandboxError::Copied(entry.state.name.clone()));
    }
    Ok(!kept)
}

/// How a container is asked to end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stop {
    /// With which signal; else the container's own.
    pub signal: Option<Signal>,
    /// Seconds that it then has, any where they are below 0; else the container's own.
    pub seconds: Option<i64>,
}

impl Stop {
    fn of(self, options: &Options) -> (Signal, Option<Duration>) {
        let own = || options.stop_signal.as_deref().and_then(|name| signals::parse(name).ok());
        let signal = self.signal.or_else(own).unwrap_or(Signal::SIGTERM);
        let seconds = self.seconds.or(options.stop_timeout).unwrap_or(GRACE);
        (signal, u64::try_from(seconds).ok().map(Duration::from_secs))
    }
}

/// Asks the container's program to end, and kills it where it has not done so in its time. Its keeper does not start it again. Returns
/// when that has cleared away; at once where it is not running.
pub fn stop(registry: &Registry, wanted: &str, how: Stop) -> Result<Entry, SandboxError> {
    let entry = registry.find(wanted)?;
    let options = entry.record().map(|record| record.options).unwrap_or_default();
    let (signal, grace) = how.of(&options);
    if entry.state.status == Status::Exited {
        return Ok(entry);
    }
    let Some(keeper) = keeper(&entry) else {
        return Ok(entry);
    };
    // One that is being started, or ending, does not answer: it is signalled.
    let heard = keeper_socket::ask(&entry.folder, Ask::Stop).is_ok();
    if entry.state.status == Status::Paused {
        // What stands still heeds no signal. One that cannot go on is killed in the end.
        let _ = keeper_socket::ask(&entry.folder, Ask::Resume);
    }
    if entry.state.status != Status::Restarting || !heard {
        // A sandbox that is still being started has no agent to ask: its keeper is asked to give up.
        if entry.state.status == Status::Created || send(&entry, signal).is_err() {
            unless_ended(keeper.signal(Signal::SIGTERM))
                .map_err(SandboxError::host("cannot signal the container's keeper"))?;
        }
    }
    if !within(&keeper, grace)? {
        kill_at_once(&entry, &keeper)?;
    }
    events::tell(registry.places(), "stop", &entry.state, &[]);
    Ok(entry)
}

/// Sends a signal to the container's program. After one that ends it by a user's will its keeper does not
/// start it again.
pub fn kill(registry: &Registry, wanted: &str, signal: Signal) -> Result<Entry, SandboxError> {
    let entry = running(registry, wanted)?;
    if signal == Signal::SIGKILL {
        keeper_socket::ask(&entry.folder, Ask::Stop)?;
    }
    send(&entry, signal)?;
    let number = [("signal", (signal as i32).to_string())];
    events::tell(registry.places(), "kill", &entry.state, &number);
    Ok(entry)
}

/// Lets all processes of a container stand still, or go on.
pub fn pause(registry: &Registry, wanted: &str, still: bool) -> Result<Entry, SandboxError> {
    let entry = running(registry, wanted)?;
    keeper_socket::ask(&entry.folder, if still { Ask::Pause } else { Ask::Resume })?;
    let action = if still { "pause" } else { "unpause" };
    events::tell(registry.places(), action, &entry.state, &[]);
    Ok(entry)
}

/// The container, if it runs, be it that it stands still.
pub fn running(registry: &Registry, wanted: &str) -> Result<Entry, SandboxError> {
    let entry = registry.find(wanted)?;
    if !entry.state.status.is_running() {
        let (name, status) = (entry.state.name, entry.state.status);
        return Err(SandboxError::NotRunning { name, status });
    }
    Ok(entry)
}

/// Removes the container; with `force` also a running one, with `volumes` also those that were made for it
/// alone.
pub fn remove(
    registry: &Registry,
    wanted: &str,
    force: bool,
    volumes: bool,
) -> Result<Entry, SandboxError> {
    let entry = registry.find(wanted)?;
    // Damaged, it names none that could be trusted.
    let mounts = entry.record().map(|record| record.options.mounts).unwrap_or_default();
    if let Some(keeper) = keeper(&entry) {
        if entry.state.status != Status::Exited {
            if !force {
                return Err(SandboxError::Running(entry.state.name));
            }
            let _ = keeper_socket::ask(&entry.folder, Ask::Stop);
            kill_at_once(&entry, &keeper)?;
        } else if !within(&keeper, Some(CLEAR_AWAY))? {
            return Err(does_not_end(&entry));
        }
    }
    match registry.remove_entry(&entry) {
        Ok(()) => {
            if volumes {
                mounts::remove_own(registry, &mounts);
            }
            if !entry.state.networks.is_empty() {
                // Its keeper was killed.
                network::sweep(registry.places());
            }
            events::tell(registry.places(), "destroy", &entry.state, &[]);
            Ok(entry)
        }
        // Its keeper has done so.
        Err(_) if registry.find(&entry.state.id).is_err() => Ok(entry),
        Err(error) => Err(error.into()),
    }
}

/// What a container is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It does not run.
    NotRunning,
    /// It has ended once more.
    NextExit,
    /// It is no more.
    Removed,
}

/// Waits for a container: its exit code, where that is known.
pub fn wait(
    registry: &Registry,
    entry: &Entry,
    condition: Condition,
) -> Result<Option<i32>, SandboxError> {
    let failed = SandboxError::host("cannot watch the container's state");
    let inotify = Inotify::init().map_err(&failed)?;
    let changes = WatchMask::MOVED_TO | WatchMask::DELETE_SELF | WatchMask::DELETE;
    let mut code = entry.state.exit_code;
    if inotify.watches().add(&entry.folder.record, changes).is_err() {
        return Ok(code);
    }
    let (started, finished) = (entry.state.started, entry.state.finished);
    loop {
        // Looked at after the watch began: nothing is missed in between.
        let now = match registry.find(&entry.state.id) {
            Ok(now) => now,
            Err(_) => return Ok(code),
        };
        code = now.state.exit_code.or(code);
        // It may run again before anybody has looked.
        let again = started.is_some() && now.state.started != started;
        let ended = again || matches!(now.state.status, Status::Exited | Status::Restarting);
        let over = match condition {
            Condition::NotRunning => {
                ended || now.state.status == Status::Created && !now.folder.is_kept()
            }
            Condition::NextExit => ended && (again || now.state.finished != finished),
            Condition::Removed => false,
        };
        if over {
            return Ok(code);
        }
        // A keeper that is killed writes nothing down.
        let keeper = keeper(&now);
        if keeper.is_none() && now.state.keeper.is_some() && !ended {
            // It has gone since: there is more to see, and nobody who would tell.
            continue;
        }
        let mut fds = vec![PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(keeper.as_ref().map(|keeper| PollFd::new(keeper.as_fd(), PollFlags::POLLIN)));
        if wait_for(&mut fds, PollTimeout::NONE)? == Some(0) {
            // The events say nothing but that it is time to look.
            nix::unistd::read(&inotify, &mut [0u8; 4096]).map_err(|errno| failed(errno.into()))?;
        }
    }
}

/// Kills the program; where the guest does not heed that, the machine.
fn kill_at_once(entry: &Entry, keeper: &Process) -> Result<(), SandboxError> {
    if send(entry, Signal::SIGKILL).is_ok() && within(keeper, Some(CLEAR_AWAY))? {
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
    if entry.state.guest.is_some() {
        // The machine is another container's, whose keeper clears up after this one's.
        unless_ended(keeper.signal(Signal::SIGKILL))
            .map_err(SandboxError::host("cannot kill the container's keeper"))?;
    }
    if within(keeper, Some(CLEAR_AWAY))? {
        return Ok(());
    }
    Err(does_not_end(entry))
}

fn does_not_end(entry: &Entry) -> SandboxError {
    SandboxError::DoesNotEnd(entry.state.name.clone(), entry.state.keeper.unwrap_or(0))
}

/// Has the agent send a signal to the container's program.
fn send(entry: &Entry, signal: Signal) -> Result<(), ClientError> {
    let InGuest { vsock, container } = entry.in_guest();
    let id = ProcessId::init(&container);
    let request = Request::Kill { id, signal: signal as i32, all: false };
    Client::open(&vsock, ASK_TIME)?.call(&request)
}

/// A process that has ended meanwhile needs no signal.
fn unless_ended(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// The process that keeps a container; `None` where it has ended meanwhile.
pub fn keeper(entry: &Entry) -> Option<Process> {
    let process = Process::of(entry.state.keeper?).ok()?;
    // Looked at after the handle was made: the lock is held, so the pid was the keeper's.
    entry.folder.is_kept().then_some(process)
}

fn within(keeper: &Process, time: Option<Duration>) -> Result<bool, SandboxError> {
    keeper.ends_within(time).map_err(SandboxError::host("cannot wait for the container's keeper"))
}
