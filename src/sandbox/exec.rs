//! A further process in a running container, kept by the command that asked for it.

use ampoule_protocol::message::{Exec, UserName};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

use super::container::{self, Running, fresh_name};
use super::error::SandboxError;
use super::events;
use super::monitored::wait;
use super::registry::{InGuest, Registry};
use super::signals::{Patience, Signals};
use super::spec;
use super::state::Status;
use super::streams::{Ends, Streams};
use crate::detach_keys::DetachKeys;
use crate::random;
use crate::terminal::{self, RawTerminal};

/// Exit code of a process that was killed.
pub(super) const KILLED: u8 = 128 + 9;

/// What a user asks of a further process, in the words of `docker exec`.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `K=V` over the container's environment.
    pub env: Vec<String>,
    /// Working directory; the container's by default.
    pub workdir: Option<String>,
    /// User; the container's by default.
    pub user: Option<String>,
    /// Carry standard input.
    pub interactive: bool,
    /// Give the program a terminal.
    pub terminal: bool,
    /// Do not wait for it.
    pub detach: bool,
    /// Keys that let go of it, where it has a terminal that is typed to.
    pub keys: Option<DetachKeys>,
}

/// How it came that a process is no longer waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It has ended, with this code.
    Exit(u8),
    /// The keys were typed that let go of it; it runs on.
    LetGo,
}

/// Longest command line that an event tells, in characters.
const TOLD: usize = 1024;

/// Runs a further process in the container named `wanted`, to its end where it is not detached.
pub fn run(registry: &Registry, wanted: &str, options: ExecOptions) -> Result<End, SandboxError> {
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let entry = registry.find(wanted)?;
    if entry.state.status != Status::Running {
        return Err(SandboxError::NotRunning {
            name: entry.state.name,
            status: entry.state.status,
        });
    }
    let InGuest { vsock, container } = entry.in_guest();
    let ends = Ends::typed(options.interactive, options.keys.clone().filter(|_| options.terminal));
    let (interactive, detach) = (options.interactive, options.detach);
    let id = random::id()
        .map_err(std::io::Error::other)
        .map_err(SandboxError::host("cannot get random bytes"))?;
    let command: String = options.command.join(" ").chars().take(TOLD).collect();
    let tell = |action: &str, code: Option<u8>| {
        let mut more = vec![("execID", id.clone())];
        more.extend(code.map(|code| ("exitCode", code.to_string())));
        events::tell(registry.places(), action, &entry.state, &more);
    };
    let request = request(&container, options, &ends)?;
    let terminal = request.spec.terminal().unwrap_or(false);
    let raw = if terminal && interactive && !detach {
        RawTerminal::enter().map_err(SandboxError::host("cannot set the terminal to raw mode"))?
    } else {
        None
    };
    tell(&format!("exec_create: {command}"), None);
    let mut running = container::exec(&vsock, request, &ends)?;
    tell(&format!("exec_start: {command}"), None);
    if detach {
        return Ok(End::Exit(0));
    }
    let end = keep(&mut running, &signals, Caller::Impatient);
    drop(raw);
    match end {
        Ok(End::Exit(code)) => tell("exec_die", Some(code)),
        Ok(End::LetGo) => tell("exec_detach", None),
        Err(_) => {}
    }
    if let Some(source) = running.streams.failure() {
        return Err(SandboxError::Host { what: "cannot write the process's output", source });
    }
    end
}

pub(super) fn request(
    container: &str,
    options: ExecOptions,
    ends: &Ends,
) -> Result<Exec, SandboxError> {
    let process = fresh_name("exec")?;
    // Nobody would read or type on a terminal of a process that is not waited for.
    let with_terminal = options.terminal && !options.detach;
    let size = with_terminal.then(terminal::size);
    let spec = spec::exec_process(options.command, options.env, options.workdir.as_deref(), size)?;
    let stdio = if options.detach {
        Default::default()
    } else {
        Streams::names(&process, ends, with_terminal)
    };
    Ok(Exec {
        container: container.to_owned(),
        process,
        spec: Box::new(spec),
        user: options.user.map(|user| UserName { user, groups: Vec::new() }),
        inherit: true,
        stdio,
    })
}

/// Who waits for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Waits until it ends.
    Patient,
    /// No longer waits when it has asked often enough: the process is its container's to end.
    Impatient,
}

/// Waits for the process's end and for the last byte of its output, or for the keys that let go of it.
pub fn keep(running: &mut Running, signals: &Signals, caller: Caller) -> Result<End, SandboxError> {
    let mut code = None;
    let mut patience = Patience::default();
    loop {
        let waits_for = if code.is_none() { running.as_fd() } else { running.streams.as_fd() };
        let mut fds = vec![
            PollFd::new(waits_for, PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(running.streams.let_go().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match (wait(&mut fds, PollTimeout::NONE)?, code) {
            (Some(0), None) => {
                code = Some(match running.take_exit() {
                    Ok(status) => u8::try_from(status.code).unwrap_or(255),
                    // The container, or its machine, has ended, and with it the process.
                    Err(_) => KILLED,
                });
            }
            (Some(0), Some(code)) => return Ok(End::Exit(code)),
            (Some(2), None) => return Ok(End::LetGo),
            // Typed when it had ended already; its output may be all that is still to come.
            (Some(2), Some(code)) => return Ok(End::Exit(code)),
            _ => {
                if running.pass_next_on(signals, &mut patience)? && caller == Caller::Impatient {
                    return Ok(End::Exit(code.unwrap_or(KILLED)));
                }
            }
        }
    }
}
