//! The streams of a running container, carried to and from this process's own.

use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

use super::container::Heard;
use super::detach::{self, Fronted, What};
use super::error::SandboxError;
use super::events;
use super::exec::{Caller, End, KILLED, keep};
use super::keeper_socket;
use super::lifecycle::{self, Condition};
use super::monitored::wait;
use super::places::Places;
use super::registry::{Entry, Registry};
use super::restart::RestartPolicy;
use super::signals::Signals;
use super::state::Status;
use super::streams::{Ends, Streams};
use crate::detach_keys::DetachKeys;
use crate::terminal::RawTerminal;

/// What a user asks for, in the words of `docker attach`.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Carry standard input, which the container has to have open.
    pub stdin: bool,
    /// Pass signals on to the program; without it they end the attachment.
    pub proxy: bool,
    /// Keys that end the attachment, where the container has a terminal that is typed to.
    pub keys: DetachKeys,
}

/// Attaches to a running container until it ends, or until the keys are typed.
pub fn run(
    registry: &Registry,
    entry: &Entry,
    options: AttachOptions,
) -> Result<End, SandboxError> {
    if entry.state.status == Status::Paused {
        return Err(SandboxError::Paused(entry.state.name.clone()));
    }
    let stdin = options.stdin;
    let terminal = entry.state.terminal;
    let signals = match options.proxy {
        true => Signals::block(),
        false => Signals::none(),
    };
    let signals = signals.map_err(SandboxError::host("cannot block signals"))?;
    let raw = match terminal && stdin {
        true => RawTerminal::enter()
            .map_err(SandboxError::host("cannot set the terminal to raw mode"))?,
        false => None,
    };
    let near = keeper_socket::attach(&entry.folder, stdin)?;
    events::tell(registry.places(), "attach", &entry.state, &[]);
    let keys = Some(options.keys).filter(|_| terminal);
    let streams = Streams::over(near, &Ends::typed(stdin, keys))?;
    let mut running = Heard::open(entry.in_guest())?.with(terminal, streams);
    if terminal {
        running.follow_terminal();
    }
    let end = keep(&mut running, &signals, Caller::Patient)?;
    drop(raw);
    if end == End::LetGo {
        events::tell(registry.places(), "detach", &entry.state, &[]);
        return Ok(end);
    }
    // Its guest may have gone before it could tell: its keeper has written it down.
    let code = lifecycle::wait(registry, entry, Condition::NotRunning)?;
    Ok(End::Exit(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(KILLED)))
}

/// Starts a container that has a terminal, with this process's own attached to it from its first byte on, and
/// a keeper that outlives this process: until it ends, or until the keys are typed.
///
/// The keeper is another process: who waits for this one would wait for a keeper in it, too.
pub fn start(
    places: &Places,
    what: What,
    restart: RestartPolicy,
    keys: DetachKeys,
) -> Result<End, SandboxError> {
    let Fronted { id, near, keeper } = detach::front(places, what).map_err(Box::new)?;
    let registry = Registry::new(places);
    let entry = registry.find(&id);
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let raw =
        RawTerminal::enter().map_err(SandboxError::host("cannot set the terminal to raw mode"))?;
    let streams = Streams::over(near, &Ends::typed(true, Some(keys)))?;
    let end = match entry.as_ref().map(|entry| Heard::open(entry.in_guest())) {
        Ok(Ok(heard)) => {
            let mut running = heard.with(true, streams);
            running.follow_terminal();
            keep(&mut running, &signals, Caller::Patient)?
        }
        // It has ended already: what it has said is still to come.
        _ => {
            wait(&mut [PollFd::new(streams.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            End::Exit(KILLED)
        }
    };
    drop(raw);
    match (end, entry) {
        (End::LetGo, Ok(entry)) => {
            events::tell(places, "detach", &entry.state, &[]);
            Ok(end)
        }
        // Its keeper knows more, and is about to end; one that starts it again is not waited for.
        (End::Exit(seen), _) if restart == RestartPolicy::No => {
            Ok(End::Exit(keeper.outcome().map_err(Box::new)?.unwrap_or(seen)))
        }
        _ => Ok(end),
    }
}
