//! Keeps one container: from its sandbox's start to the exit code.

use std::os::fd::AsFd;

use ampoule_protocol::message::{Event, ExitStatus};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::container::{self, Running};
use super::error::SandboxError;
use super::launch::{Sandbox, wait};
use super::options::Options;
use super::places::Places;
use super::signals::{self, Patience, Signals};
use super::spec;
use super::state::{State, Status};
use super::streams::Ends;
use super::timings::Timings;
use crate::agent::Ready;
use crate::clock::now_us;
use crate::image::Image;
use crate::terminal::RawTerminal;

/// How a container ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code of its program, or 128 + signal.
    pub code: u8,
    /// Output that could not be written on the host.
    pub lost_output: Option<std::io::Error>,
    /// When what happened.
    pub timings: Timings,
}

/// What is to be kept.
#[derive(Debug)]
pub struct Job<'a> {
    /// Where things are.
    pub places: &'a Places,
    /// The image, guarded as long as this.
    pub image: &'a Image,
    /// What the user asked for.
    pub options: &'a Options,
    /// When the command's `main` was entered.
    pub command_us: u64,
    /// Whether [`Outcome::timings`] is looked at.
    pub timings: bool,
}

/// Runs a container to its end. `ends` says what its streams are tied to, while the guest boots;
/// `started` is called when its program runs.
///
/// On failure nothing is left behind.
pub fn run(
    job: &Job<'_>,
    ends: impl FnOnce(&State) -> Result<Ends, SandboxError>,
    started: impl FnOnce(&State),
) -> Result<Outcome, SandboxError> {
    let Job { places, image, options, .. } = *job;
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let (mut sandbox, listener) = Sandbox::launch(places, image, options)?;
    sandbox.timings.command_us = job.command_us;
    // Everything up to the next wait is done while the guest boots.
    let made = spec::container(&sandbox.state.id, &image.config, options)?;
    let ends = ends(&sandbox.state)?;
    let mut ready = sandbox.await_ready(listener, &signals)?;

    let raw = enter_raw(options)?;
    let vsock = sandbox.kept().map(|kept| kept.folder.vsock()).unwrap_or_default();
    let mut running =
        container::start(&vsock, made, &ends).map_err(|error| sandbox.or_its_death(error))?;
    sandbox.timings.started_us = now_us();
    sandbox.state.status = Status::Running;
    sandbox.state.started = Some(Timestamp::now());
    sandbox.write_state()?;
    started(&sandbox.state);
    if job.timings {
        sandbox.take_timings()?;
    }
    // What others left is cleared when nobody waits for it; that it could not be is theirs to tell.
    let _ = sandbox.sweep();

    let exit = keep(&mut sandbox, &mut running, &mut ready, &signals);
    drop(raw);
    let lost_output = running.streams.failure();
    finish(sandbox, exit, options.remove).map(|(code, timings)| Outcome {
        code,
        lost_output,
        timings,
    })
}

fn enter_raw(options: &Options) -> Result<Option<RawTerminal>, SandboxError> {
    if !(options.terminal && options.interactive) {
        return Ok(None);
    }
    RawTerminal::enter().map_err(SandboxError::host("cannot set the terminal to raw mode"))
}

/// Records the end and clears the sandbox away.
fn finish(
    mut sandbox: Sandbox,
    exit: Result<ExitStatus, SandboxError>,
    remove: bool,
) -> Result<(u8, Timings), SandboxError> {
    sandbox.timings.exited_us = now_us();
    sandbox.state.status = Status::Exited;
    sandbox.state.finished = Some(Timestamp::now());
    sandbox.state.oom_killed = exit.as_ref().is_ok_and(|status| status.oom_killed);
    sandbox.state.error = exit.as_ref().err().map(ToString::to_string);
    let code = match &exit {
        Ok(status) => u8::try_from(status.code).unwrap_or(255),
        Err(error) => error.exit_status(),
    };
    sandbox.state.exit_code = Some(code.into());
    let timings = sandbox.end(!remove)?;
    exit.map(|_| (code, timings))
}

/// Waits for the end of the container's program, passing signals on to it.
fn keep(
    sandbox: &mut Sandbox,
    running: &mut Running,
    ready: &mut Ready,
    signals: &Signals,
) -> Result<ExitStatus, SandboxError> {
    let mut patience = Patience::default();
    let mut events = true;
    loop {
        let mut fds = vec![
            PollFd::new(running.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(sandbox.monitor().as_fd(), PollFlags::POLLIN),
        ];
        if events {
            fds.push(PollFd::new(ready.as_fd(), PollFlags::POLLIN));
        }
        match wait(&mut fds, PollTimeout::NONE)? {
            Some(0) => {
                let exit = running.take_exit().map_err(|error| sandbox.or_its_death(error))?;
                drain(sandbox, running, signals)?;
                return Ok(exit);
            }
            Some(1) => {
                if running.pass_next_on(signals, &mut patience)? {
                    return Ok(ExitStatus { code: 137, oom_killed: false });
                }
            }
            Some(2) => {
                if let Some(death) = sandbox.death()? {
                    return Err(death);
                }
            }
            _ => match ready.event() {
                Ok(Event::OutOfMemory { .. }) => sandbox.state.oom_killed = true,
                Ok(Event::Fatal { message }) => {
                    return Err(SandboxError::Died { reason: message, console: String::new() });
                }
                // Its end is the guest's, of which the monitor tells more.
                Err(_) => events = false,
            },
        }
    }
}

/// Waits until the output of an ended program has been written to its last byte. A signal that
/// asks for an end is heeded here: whoever should read may be stuck.
fn drain(sandbox: &Sandbox, running: &Running, signals: &Signals) -> Result<(), SandboxError> {
    loop {
        let mut fds = [
            PollFd::new(running.streams.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(sandbox.monitor().as_fd(), PollFlags::POLLIN),
        ];
        match wait(&mut fds, PollTimeout::NONE)? {
            Some(1) => {
                let signal = signals.next().map_err(SandboxError::host("cannot read a signal"))?;
                if signal.is_some_and(signals::ends) {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
    }
}
