//! Keeps one container: from its sandbox's start to the exit code.

use std::os::fd::AsFd;

use ampoule_protocol::message::{Event, ExitStatus, Request};
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::container::{self, Running, Starting, Then};
use super::error::SandboxError;
use super::fork::{Fork, Frozen};
use super::launch::{Launched, Sandbox};
use super::monitored::wait;
use super::options::Options;
use super::places::Places;
use super::signals::{self, Patience, Signals};
use super::spec;
use super::state::{State, Status};
use super::streams::Ends;
use super::template::{Template, Templates};
use super::timings::Timings;
use super::wake::wake;
use crate::agent::{Client, EXCHANGE_TIME, Events};
use crate::clock::now_us;
use crate::image::Image;
use crate::report::chain;
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
    ends: impl Fn(&State) -> Result<Ends, SandboxError>,
    started: impl FnOnce(&State),
) -> Result<Outcome, SandboxError> {
    let Job { places, options, .. } = *job;
    // Before signals are blocked: an interrupt ends the making of a template at once.
    let template = template(places, options);
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let begun = match begin(job, template.as_ref(), &signals, &ends) {
        Err(error @ SandboxError::Template(_)) => {
            warn("the sandbox is booted instead, its template made anew next time", &error);
            let forgotten = Templates::key(&options.shape())
                .and_then(|key| Ok(Templates::new(places.templates()).remove(&key)?));
            // Another start may have been faster.
            let _ = forgotten;
            begin(job, None, &signals, &ends)
        }
        begun => begun,
    };
    let begun = begun?;
    let watched = template.filter(|template| begun.is_warm() && template.touched.is_none());
    go_on(begun, &signals, started, job.timings, watched.as_ref())
}

/// Keeps a fork to its end, as [`run`] does a container that is new.
pub fn fork(
    places: &Places,
    fork: &Fork,
    frozen: Frozen,
    ends: impl Fn(&State) -> Result<Ends, SandboxError>,
    started: impl FnOnce(&State),
) -> Result<Outcome, SandboxError> {
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let mut sandbox = Sandbox::fork(places, fork, &frozen)?;
    drop(frozen);
    let ends = ends(&sandbox.state)?;
    let wake = wake(sandbox.state.short_id())?;
    let starting = container::go_on(&sandbox.machine.vsock(), fork.terminal, &ends, wake)
        .map_err(|error| sandbox.machine.guest.or_its_death(error))?;
    let running = arrive(&mut sandbox, starting, &ends, &signals)?;
    let begun = Begun { sandbox, running, events: None, raw: None };
    go_on(begun, &signals, started, false, None)
}

/// From the program's start to its end. `watched` is the template that the start was the first of.
fn go_on(
    begun: Begun,
    signals: &Signals,
    started: impl FnOnce(&State),
    timings: bool,
    watched: Option<&Template>,
) -> Result<Outcome, SandboxError> {
    let Begun { mut sandbox, mut running, events, raw } = begun;
    sandbox.state.status = Status::Running;
    sandbox.state.started = Some(Timestamp::now());
    sandbox.write_state()?;
    started(&sandbox.state);
    if timings {
        sandbox.take_timings()?;
    }
    if let Some(template) = watched {
        sandbox.machine.guest.add_touched(template)?;
    }
    let mut events = match events {
        Some(events) => events,
        None => open_events(&mut sandbox)?,
    };
    // What others left is cleared when nobody waits for it; that it could not be is theirs to tell.
    let _ = sandbox.machine.sweep();

    let exit = keep(&mut sandbox, &mut running, &mut events, signals);
    drop(raw);
    let lost_output = running.streams.failure();
    let remove = sandbox.state.remove;
    finish(sandbox, exit, remove).map(|(code, timings)| Outcome { code, lost_output, timings })
}

/// A container whose program runs.
struct Begun {
    sandbox: Sandbox,
    running: Running,
    /// What carries the agent's events; a restored guest's is still to be opened.
    events: Option<Events>,
    raw: Option<RawTerminal>,
}

impl Begun {
    fn is_warm(&self) -> bool {
        self.sandbox.machine.guest.timings.warm
    }
}

/// Starts the sandbox, and the container in it.
fn begin(
    job: &Job<'_>,
    template: Option<&Template>,
    signals: &Signals,
    ends: impl Fn(&State) -> Result<Ends, SandboxError>,
) -> Result<Begun, SandboxError> {
    let Job { places, image, options, .. } = *job;
    let (mut sandbox, launched) = Sandbox::launch(places, image, options, template)?;
    sandbox.machine.guest.timings.command_us = job.command_us;
    // Everything up to the next wait is done while the guest starts.
    let made = spec::container(&sandbox.state.id, &image.config, options)?;
    let ends = ends(&sandbox.state)?;
    let vsock = sandbox.machine.vsock();
    let (events, wake) = match launched {
        Launched::Cold(listener) => {
            (Some(sandbox.machine.guest.await_ready(listener, Some(signals))?.events), None)
        }
        Launched::Warm => {
            let hostname = made.spec.hostname().as_deref().unwrap_or("ampoule");
            (None, Some(wake(hostname)?))
        }
    };
    let raw = enter_raw(options)?;
    let create = container::on_image(made, &ends);
    let starting = container::start(&vsock, create, wake, Then::Start)
        .map_err(|error| sandbox.machine.guest.or_its_death(error))?;
    let running = arrive(&mut sandbox, starting, &ends, signals)?;
    Ok(Begun { sandbox, running, events, raw })
}

/// Waits until the program runs that the guest was asked for.
fn arrive(
    sandbox: &mut Sandbox,
    starting: Starting,
    ends: &Ends,
    signals: &Signals,
) -> Result<Running, SandboxError> {
    let guest = &mut sandbox.machine.guest;
    guest.await_guest(starting.as_fd(), Some(signals))?;
    let mut woken_us = guest.timings.ready_us;
    let running = starting
        .finish(ends, || woken_us = now_us(), |fd| guest.await_guest(fd, Some(signals)))
        .map_err(|error| guest.or_its_death(error))?;
    sandbox.machine.guest.timings.ready_us = woken_us;
    sandbox.machine.guest.timings.started_us = now_us();
    Ok(running)
}

/// The template to start from; none where the user wants none, or none can be had.
fn template(places: &Places, options: &Options) -> Option<Template> {
    if options.cold {
        return None;
    }
    match Templates::new(places.templates()).get(&options.shape()) {
        Ok(template) => Some(template),
        // Would be in the way of a boot, too, which tells it.
        Err(SandboxError::GuestFiles(_)) => None,
        Err(error) => {
            warn("the sandbox is booted instead", &error);
            None
        }
    }
}

fn warn(what: &str, error: &SandboxError) {
    eprintln!("ampoule: warning: {}: {what}", chain(error));
}

/// Has a restored guest's agent tell its events. The container runs already: nobody waits for this.
fn open_events(sandbox: &mut Sandbox) -> Result<Events, SandboxError> {
    let open = || {
        let mut opening = Client::begin(&sandbox.machine.vsock(), EXCHANGE_TIME)?;
        opening.send(&Request::Events)?;
        opening.finish().map(Client::into_events)
    };
    open().map_err(|error| sandbox.machine.guest.or_its_death(error))
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
    sandbox.machine.guest.timings.exited_us = now_us();
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
    agent: &mut Events,
    signals: &Signals,
) -> Result<ExitStatus, SandboxError> {
    let mut patience = Patience::default();
    let mut events = true;
    loop {
        let mut fds = vec![
            PollFd::new(running.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(sandbox.as_fd(), PollFlags::POLLIN),
        ];
        if events {
            fds.push(PollFd::new(agent.as_fd(), PollFlags::POLLIN));
        }
        match wait(&mut fds, PollTimeout::NONE)? {
            Some(0) => {
                let exit = running
                    .take_exit()
                    .map_err(|error| sandbox.machine.guest.or_its_death(error))?;
                drain(sandbox, running, signals)?;
                return Ok(exit);
            }
            Some(1) => {
                if running.pass_next_on(signals, &mut patience)? {
                    return Ok(ExitStatus { code: 137, oom_killed: false });
                }
            }
            Some(2) => {
                if let Some(death) = sandbox.machine.guest.death()? {
                    return Err(death);
                }
            }
            _ => match agent.event() {
                Ok(None) => {}
                Ok(Some(Event::OutOfMemory { .. })) => sandbox.state.oom_killed = true,
                Ok(Some(Event::Fatal { message })) => {
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
            PollFd::new(sandbox.as_fd(), PollFlags::POLLIN),
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
