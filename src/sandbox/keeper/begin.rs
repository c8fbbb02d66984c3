//! Starts a container: its sandbox, and its program in it.

use std::os::fd::AsFd;
use std::path::Path;
use std::thread::{self, JoinHandle};

use ampoule_protocol::message::{Create, Request, SmallFile};
use oci_spec::runtime::{Mount, Spec};

use super::super::container::{self, CONTAINER, Running, Starting, Then};
use super::super::error::SandboxError;
use super::super::fork::{Fork, Frozen};
use super::super::launch::{Container, Launched, Sandbox};
use super::super::network::{AttachError, Attached, Who};
use super::super::options::Options;
use super::super::places::Places;
use super::super::signals::Signals;
use super::super::spec;
use super::super::streams::Ends;
use super::super::template::{Template, Templates};
use super::super::wake::wake;
use super::home::Home;
use crate::agent::{Client, EXCHANGE_TIME, Events};
use crate::clock::now_us;
use crate::image::Image;
use crate::report::chain;
use crate::terminal::RawTerminal;

/// A container whose program runs.
pub struct Begun {
    pub home: Home,
    pub running: Running,
    /// Its host name.
    pub hostname: String,
    /// Pid of its first process in the guest, where that is its own.
    pub init: Option<i32>,
    /// What carries the agent's events; a restored guest's is still to be opened.
    pub events: Option<Events>,
    /// The caller's terminal, as long as it is the program's.
    pub raw: Option<RawTerminal>,
    /// The template whose first start this is.
    pub watched: Option<Template>,
}

/// What a container is started from.
pub struct Start<'a> {
    pub places: &'a Places,
    pub container: Container<'a>,
    pub ends: &'a Ends,
    pub signals: &'a Signals,
    /// When the command's `main` was entered.
    pub command_us: u64,
}

/// Starts the container of an image; from the template, or, where that cannot be, from its kernel on.
pub fn of_image(
    start: &Start<'_>,
    image: &Image,
    template: Option<Template>,
) -> Result<Begun, SandboxError> {
    let begun = match once(start, image, template.as_ref()) {
        Err(error @ SandboxError::Template(_)) => {
            warn("the sandbox is booted instead, its template made anew next time", &error);
            let forgotten = Templates::key(&start.container.record.options.shape())
                .and_then(|key| Ok(Templates::new(start.places.templates()).remove(&key)?));
            // Another start may have been faster.
            let _ = forgotten;
            // Those of the first attempt.
            start.container.kept.folder.remove_guest_sockets();
            once(start, image, None)
        }
        begun => begun,
    };
    let mut begun = begun?;
    let warm = begun.home.own().is_some_and(|sandbox| sandbox.machine.guest.timings.warm);
    begun.watched = template.filter(|template| warm && template.touched.is_none());
    Ok(begun)
}

/// Lets a fork go on.
pub fn of_fork(start: &Start<'_>, fork: &Fork, frozen: Frozen) -> Result<Begun, SandboxError> {
    let mut sandbox = Sandbox::fork(start.places, &start.container, fork, &frozen)?;
    drop(frozen);
    let wake = wake(sandbox.state.short_id())?;
    let vsock = sandbox.machine.vsock();
    let starting =
        container::go_on(&vsock, start.container.record.options.terminal, start.ends, wake)
            .map_err(|error| sandbox.machine.guest.or_its_death(error))?;
    let running = arrive(&mut sandbox, starting, start)?;
    // As it was told when it woke.
    let hostname = sandbox.state.short_id().to_owned();
    let home = Home::Own(Box::new(sandbox));
    Ok(Begun { home, running, hostname, init: fork.init, events: None, raw: None, watched: None })
}

fn once(
    start: &Start<'_>,
    image: &Image,
    template: Option<&Template>,
) -> Result<Begun, SandboxError> {
    let Start { places, container, ends, signals, command_us } = start;
    let options = &container.record.options;
    // Made while the guest starts.
    let attaching = Attaching::begin(places, container)?;
    let (mut sandbox, launched) = Sandbox::launch(places, container, image, template)?;
    sandbox.machine.guest.timings.command_us = *command_us;
    // Everything up to the next wait is done while the guest starts.
    let mut made = spec::container(&sandbox.state.id, &image.config, options)?;
    sandbox.attached = attaching.end()?;
    sandbox.state.networks = sandbox.attached.told();
    sandbox.mounted.add_to(&mut made.spec);
    // One of those may be at /etc.
    let files = add_files(&mut made.spec, &sandbox.attached, options);
    let hostname = made.spec.hostname().clone().unwrap_or_default();
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
    let raw = enter_raw(options, ends)?;
    sandbox.attached.plug(&mut sandbox.machine.guest, &options.rates.network)?;
    let mut create = container::on_image(made, sandbox.state.layer, ends);
    create.files = files;
    create.networked = sandbox.attached.has_first_interface();
    let network = sandbox.attached.request();
    let starting = container::start(&vsock, create, network, wake, Then::Start)
        .map_err(|error| sandbox.machine.guest.or_its_death(error))?;
    let running = arrive(&mut sandbox, starting, start)?;
    let (home, init) = (Home::Own(Box::new(sandbox)), running.pid);
    Ok(Begun { home, running, hostname, init, events, raw, watched: None })
}

/// The making of a container's places at networks, on a thread of its own.
struct Attaching(Option<JoinHandle<Result<Attached, SandboxError>>>);

impl Attaching {
    fn begin(places: &Places, container: &Container<'_>) -> Result<Self, SandboxError> {
        let (places, kept) = (places.clone(), container.kept.clone());
        let options = container.record.options.network.clone();
        let vcpus = container.record.options.shape().vcpus;
        let work = move || {
            let who = Who { id: &kept.id, name: &kept.name, vcpus };
            Attached::open(&places, who, &options)
        };
        let thread = thread::Builder::new().name("network".into()).spawn(work);
        Ok(Self(Some(thread.map_err(AttachError::Thread)?)))
    }

    fn end(mut self) -> Result<Attached, SandboxError> {
        let Some(thread) = self.0.take() else { return Ok(Attached::default()) };
        let failed = || AttachError::Thread(std::io::Error::other("the thread failed"));
        thread.join().unwrap_or_else(|_| Err(failed().into()))
    }
}

impl Drop for Attaching {
    /// What was made for a start that failed is undone before that is told.
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// The files that tell a container of its network, with their places.
pub fn files(
    attached: &Attached,
    hostname: &str,
    options: &Options,
) -> Vec<(SmallFile, &'static str)> {
    let taken = |place: &Path| options.mounts.iter().any(|mount| mount.target == place);
    attached.files(hostname, &options.network, taken)
}

/// Mounts the files that tell a container of its network: those that the agent is to write.
fn add_files(spec: &mut Spec, attached: &Attached, options: &Options) -> Vec<SmallFile> {
    let hostname = spec.hostname().clone().unwrap_or_default();
    let files = files(attached, &hostname, options);
    bind_files(spec, files.iter().map(|(file, place)| (file.name.as_str(), *place)));
    files.into_iter().map(|(file, _)| file).collect()
}

/// Mounts files that the agent has written for a sandbox's own container.
pub fn bind_files<'a>(spec: &mut Spec, files: impl Iterator<Item = (&'a str, &'a str)>) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (name, place) in files {
        let mut mount = Mount::default();
        mount.set_destination(place.into());
        mount.set_typ(Some("bind".into()));
        mount.set_source(Some(Create::file(CONTAINER, name)));
        mount.set_options(Some(["rbind", "rprivate"].map(str::to_owned).into()));
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
}

/// Waits until the program runs that the guest was asked for.
fn arrive(
    sandbox: &mut Sandbox,
    starting: Starting,
    start: &Start<'_>,
) -> Result<Running, SandboxError> {
    let Start { ends, signals, .. } = start;
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
pub fn template(places: &Places, options: &Options) -> Option<Template> {
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
pub fn open_events(sandbox: &mut Sandbox) -> Result<Events, SandboxError> {
    let open = || {
        let mut opening = Client::begin(&sandbox.machine.vsock(), EXCHANGE_TIME)?;
        opening.send(&Request::Events)?;
        opening.finish().map(Client::into_events)
    };
    open().map_err(|error| sandbox.machine.guest.or_its_death(error))
}

/// Sets the caller's terminal, where it is the program's, to raw mode.
pub fn enter_raw(options: &Options, ends: &Ends) -> Result<Option<RawTerminal>, SandboxError> {
    if !(options.terminal && matches!(ends, Ends::Own { stdin: true, .. })) {
        return Ok(None);
    }
    RawTerminal::enter().map_err(SandboxError::host("cannot set the terminal to raw mode"))
}
