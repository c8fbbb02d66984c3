//! Keeps one container: from its sandbox's start to the exit code, and to the next start where its restart
//! policy wants one.

pub(super) mod begin;
mod home;
mod join;
mod joiners;
mod keep;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::error::SandboxError;
use super::events;
use super::fork::{Fork, Frozen};
use super::health::Checker;
use super::keeper_socket::{Ask, KeeperSocket};
use super::launch::{Container, Sandbox};
use super::layer;
use super::monitored::wait;
use super::mounts;
use super::network;
use super::options::Options;
use super::outlet::Outlet;
use super::places::Places;
use super::record::Record;
use super::registry::{Kept, Registry};
use super::restart::{RestartPolicy, Restarts};
use super::signals::{self, Signals};
use super::state::{State, Status};
use super::streams::Ends;
use super::template::Template;
use super::timings::Timings;
use crate::agent::Events;
use crate::image::Image;
use crate::report::chain;
use begin::{Begun, Start};
use joiners::Joiners;
use keep::Keeping;

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
    /// Which container.
    pub wanted: Wanted,
    /// When the command's `main` was entered.
    pub command_us: u64,
    /// Whether [`Outcome::timings`] is looked at.
    pub timings: bool,
}

/// A container that is to be started.
#[derive(Debug)]
pub enum Wanted {
    /// A new one.
    New {
        /// Id of its image.
        image: String,
        /// What was asked for.
        options: Box<Options>,
    },
    /// One that is there, and that nobody keeps.
    Again(Box<Record>),
}

impl Wanted {
    /// A new container of an image.
    pub fn new(image: &Image, options: Options) -> Result<Self, SandboxError> {
        let options = Box::new(options.settled(image)?);
        Ok(Self::New { image: image.id.to_string(), options })
    }

    /// The one with this id, which is to be started again.
    pub fn again(places: &Places, id: &str) -> Result<Self, SandboxError> {
        Ok(Self::Again(Box::new(Record::read(&places.container(id))?)))
    }

    /// Its image, if all accept it who have a say.
    pub fn open_image(&self, places: &Places) -> Result<Image, SandboxError> {
        match self {
            Self::New { options, .. } => options.open_image(places),
            Self::Again(record) => record.open_image(places),
        }
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        match self {
            Self::New { options, .. } => options,
            Self::Again(record) => &record.options,
        }
    }

    /// Takes the container's folders.
    fn claim(self, registry: &Registry) -> Result<(Kept, Record), SandboxError> {
        match self {
            Self::New { image, options } => {
                let kept = registry.create(options.name.as_deref())?;
                let record = Record::new(kept.id.clone(), image, *options);
                Ok((kept, record))
            }
            Self::Again(record) => Ok((registry.reopen(&record.id)?, *record)),
        }
    }
}

/// Where a container comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// An image, guarded as long as this.
    Image(&'a Image),
    /// A running container.
    Fork(&'a Fork, Frozen),
}

/// Runs a container to its last end. `ends` says what its streams are tied to; `started` is called
/// whenever its program runs.
///
/// On failure nothing is left of a container that never ran.
pub fn run(
    job: Job<'_>,
    source: Source<'_>,
    ends: impl FnOnce(&Kept, &Options) -> Result<Ends, SandboxError>,
    started: impl FnMut(&State),
) -> Result<Outcome, SandboxError> {
    let Job { places, wanted, command_us, timings } = job;
    let registry = Registry::new(places);
    // Before signals are blocked: an interrupt ends the making of a template at once.
    let template = match &source {
        // Who joins a sandbox starts none.
        Source::Image(_) if wanted.options().network.mode.host().is_some() => None,
        Source::Image(_) => begin::template(places, wanted.options()),
        Source::Fork(..) => None,
    };
    let signals = Signals::block().map_err(SandboxError::host("cannot block signals"))?;
    let (kept, record) = wanted.claim(&registry)?;
    let mut life = Life {
        places,
        kept: kept.clone(),
        record,
        command_us,
        timings,
        signals,
        before: None,
        started,
    };
    let lived = life.live(source, template, ends);
    let Life { before, record, .. } = life;
    let never_ran = kept.fresh && before.is_none();
    if record.options.remove || never_ran {
        registry.remove(kept)?;
        // Nobody holds its volumes any more.
        mounts::remove_own(&registry, &record.options.mounts);
        if let Some(state) = &before {
            events::tell(places, "destroy", state, &[]);
        }
        return lived;
    }
    let mut written = Ok(());
    if let Err(error) = &lived {
        let state = before.or_else(|| State::read(&kept.folder.state()).ok());
        written =
            state.map_or(Ok(()), |state| gone_wrong(state, error).write(&kept.folder.state()));
    }
    registry.rest(kept)?;
    let outcome = lived?;
    written?;
    Ok(outcome)
}

/// The state of a container that could not be started again, or whose sandbox died.
fn gone_wrong(mut state: State, error: &SandboxError) -> State {
    if state.status != Status::Exited {
        state.status = if state.started.is_some() { Status::Exited } else { Status::Created };
        state.finished = Some(Timestamp::now());
        state.exit_code = Some(error.exit_status().into());
    }
    state.keeper = None;
    state.guest = None;
    state.error = Some(chain(error));
    state
}

/// A container's life, as its keeper leads it.
struct Life<'a, F> {
    places: &'a Places,
    kept: Kept,
    record: Record,
    command_us: u64,
    timings: bool,
    signals: Signals,
    /// How it was when its program last started or ended; none before the first start by this keeper.
    before: Option<State>,
    started: F,
}

/// One end of a container.
struct Ended {
    state: State,
    outcome: Result<Outcome, SandboxError>,
    ran: Duration,
}

impl<F: FnMut(&State)> Life<'_, F> {
    fn live(
        &mut self,
        source: Source<'_>,
        template: Option<Template>,
        ends: impl FnOnce(&Kept, &Options) -> Result<Ends, SandboxError>,
    ) -> Result<Outcome, SandboxError> {
        let socket = KeeperSocket::bind(&self.kept.folder)
            .map_err(SandboxError::host("cannot listen for other commands"))?;
        let ends = ends(&self.kept, &self.record.options)?;
        let mut restarts = Restarts::default();
        let mut stopped = false;
        let (mut begun, image) = match source {
            Source::Image(image) => (self.begin(&ends, image, template)?, Some(image)),
            // It is made of what was: there is nothing to begin it with again.
            Source::Fork(fork, frozen) => (begin::of_fork(&self.start(&ends), fork, frozen)?, None),
        };
        loop {
            let ended = self.keep(begun, &socket, ends.outlet(), &mut stopped)?;
            let Some(image) = image.filter(|_| !stopped) else { return self.end_with(ended) };
            let Some(pause) = restarts.next(self.policy(), ended.code(), ended.ran) else {
                return self.end_with(ended);
            };
            if let Some(ended) = self.wait_for_restart(ended, pause, restarts.count, &socket)? {
                return self.end_with(ended);
            }
            let template = match self.record.options.network.mode.host() {
                Some(_) => None,
                None => begin::template(self.places, &self.record.options),
            };
            begun = self.begin(&ends, image, template)?;
        }
    }

    /// Starts the container, in its own sandbox or in that of another.
    fn begin(
        &self,
        ends: &Ends,
        image: &Image,
        template: Option<Template>,
    ) -> Result<Begun, SandboxError> {
        let start = self.start(ends);
        match self.record.options.network.mode.host() {
            Some(named) => join::of_image(&start, image, named),
            None => begin::of_image(&start, image, template),
        }
    }

    /// What the next start is made with.
    fn start<'b>(&'b self, ends: &'b Ends) -> Start<'b> {
        Start {
            places: self.places,
            container: Container {
                kept: &self.kept,
                record: &self.record,
                before: self.before.as_ref(),
            },
            ends,
            signals: &self.signals,
            command_us: self.command_us,
        }
    }

    /// From the program's start to its end.
    fn keep(
        &mut self,
        begun: Begun,
        socket: &KeeperSocket,
        outlet: Option<&Arc<Outlet>>,
        stopped: &mut bool,
    ) -> Result<Ended, SandboxError> {
        let Begun { mut home, mut running, hostname, init, mut events, raw, watched } = begun;
        if let Some(outlet) = outlet {
            outlet
                .lead_to(running.streams.take_input())
                .map_err(SandboxError::host("cannot carry the container's input"))?;
        }
        let state = home.state();
        (state.status, state.init) = (Status::Running, init);
        state.started = Some(Timestamp::now());
        home.write_state()?;
        let state = home.state().clone();
        let first = self.before.replace(state.clone()).is_none();
        let began = Instant::now();
        (self.started)(&state);
        if self.kept.fresh && first {
            self.tell("create", &state, &[]);
        }
        self.tell("start", &state, &[]);
        if let Some(sandbox) = home.own() {
            self.settle(sandbox, watched.as_ref(), &mut events)?;
        }
        if state.layer {
            // Nobody waits for it: that the layer's file is there lasts like what is in it.
            layer::sync_folder(self.places, &state.id)?;
        }
        let checker = self.record.options.health.clone().map(|how| {
            Checker::start(self.places, &self.kept.folder, &state, how)
                .map_err(SandboxError::host("cannot check the container's health"))
        });
        let checker = checker.transpose()?;
        let exit = Keeping {
            places: self.places,
            options: &self.record.options,
            home: &mut home,
            hostname: &hostname,
            joiners: Joiners::default(),
            running: &mut running,
            agent: events.as_mut(),
            signals: &self.signals,
            socket,
            outlet: outlet.map(AsRef::as_ref),
            stopped,
        }
        .keep();
        drop(checker);
        drop(raw);
        let lost_output = running.streams.failure();
        if let Some(outlet) = outlet {
            outlet.detach_all();
        }
        let exited_us = crate::clock::now_us();
        let state = home.state();
        state.status = Status::Exited;
        state.finished = Some(Timestamp::now());
        state.oom_killed |= exit.as_ref().is_ok_and(|status| status.oom_killed);
        state.error = exit.as_ref().err().map(ToString::to_string);
        let code = match &exit {
            Ok(status) => u8::try_from(status.code).unwrap_or(255),
            Err(error) => error.exit_status(),
        };
        state.exit_code = Some(code.into());
        let (state, mut timings) = home.end()?;
        timings.exited_us = exited_us;
        if state.oom_killed {
            self.tell("oom", &state, &[]);
        }
        self.tell("die", &state, &[("exitCode", code.to_string())]);
        let outcome = exit.map(|_| Outcome { code, lost_output, timings });
        Ok(Ended { state, outcome, ran: began.elapsed() })
    }

    /// What is done with a sandbox once nobody waits for it any more.
    fn settle(
        &self,
        sandbox: &mut Sandbox,
        watched: Option<&Template>,
        events: &mut Option<Events>,
    ) -> Result<(), SandboxError> {
        if self.timings {
            sandbox.take_timings()?;
        }
        if let Some(template) = watched {
            sandbox.machine.guest.add_touched(template)?;
        }
        if events.is_none() {
            *events = Some(begin::open_events(sandbox)?);
        }
        // What others left is cleared when nobody waits for it; that it could not be is theirs to tell.
        let _ = sandbox.machine.sweep();
        if !sandbox.state.networks.is_empty() {
            network::sweep(self.places);
        }
        Ok(())
    }

    /// Tells those who listen to events.
    fn tell(&self, action: &str, state: &State, more: &[(&str, String)]) {
        events::tell(self.places, action, state, more);
    }

    /// The policy of now: it may have been changed while the container ran.
    fn policy(&self) -> RestartPolicy {
        let now = Record::read(&self.kept.folder.record);
        now.map_or(self.record.options.restart, |record| record.options.restart)
    }

    /// Waits for the next start; what has ended is given back where there is to be none after all.
    fn wait_for_restart(
        &mut self,
        mut ended: Ended,
        pause: Duration,
        count: u32,
        socket: &KeeperSocket,
    ) -> Result<Option<Ended>, SandboxError> {
        ended.state.status = Status::Restarting;
        ended.state.restarts = count;
        ended.state.write(&self.kept.folder.state())?;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            ];
            // Rounded up: what is less than a millisecond is not to be waited for without an end.
            let left = left + Duration::from_millis(u64::from(!left.is_zero()));
            match wait(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
                None => break,
                Some(0) => {
                    let signal =
                        self.signals.next().map_err(SandboxError::host("cannot read a signal"))?;
                    if signal.is_some_and(signals::ends) {
                        return Ok(Some(ended));
                    }
                }
                Some(_) => match socket.next() {
                    Some(asked) if asked.ask == Ask::Stop => {
                        asked.answer(Ok::<_, SandboxError>(()));
                        return Ok(Some(ended));
                    }
                    Some(asked) => {
                        let (name, status) = (ended.state.name.clone(), Status::Restarting);
                        asked.answer(Err(SandboxError::NotRunning { name, status }));
                    }
                    None => {}
                },
            }
        }
        // Options may have been changed meanwhile.
        self.record = Record::read(&self.kept.folder.record)?;
        self.before = Some(ended.state);
        Ok(None)
    }

    fn end_with(&mut self, ended: Ended) -> Result<Outcome, SandboxError> {
        let Ended { mut state, outcome, .. } = ended;
        state.status = Status::Exited;
        if !state.remove {
            state.write(&self.kept.folder.state())?;
        }
        self.before = Some(state);
        outcome
    }
}

impl Ended {
    fn code(&self) -> i32 {
        self.state.exit_code.unwrap_or(-1)
    }
}
