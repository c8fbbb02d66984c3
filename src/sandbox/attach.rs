//! The streams of a running container, carried to and from this process's own.

use super::container;
use super::error::SandboxError;
use super::events;
use super::exec::{Caller, KILLED, keep};
use super::keeper_socket;
use super::lifecycle::{self, Condition};
use super::registry::{Entry, Registry};
use super::signals::Signals;
use super::state::Status;
use super::streams::{Ends, Streams};
use crate::terminal::RawTerminal;

/// What a user asks for, in the words of `docker attach`.
#[derive(Debug, Clone, Copy)]
pub struct AttachOptions {
    /// Carry standard input, which the container has to have open.
    pub stdin: bool,
    /// Pass signals on to the program; without it they end the attachment.
    pub proxy: bool,
}

/// Attaches to a running container until it ends: its exit code.
pub fn run(registry: &Registry, entry: &Entry, options: AttachOptions) -> Result<u8, SandboxError> {
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
    let streams = Streams::over(near, &Ends::own(stdin))?;
    let mut running = container::attached(entry.in_guest(), terminal, streams)?;
    if terminal {
        running.follow_terminal();
    }
    keep(&mut running, &signals, Caller::Patient)?;
    drop(raw);
    // Its guest may have gone before it could tell: its keeper has written it down.
    let code = lifecycle::wait(registry, entry, Condition::NotRunning)?;
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(KILLED))
}
