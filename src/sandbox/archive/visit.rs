//! The guest of a container: the one that it runs in, or one that is started for its files alone.

use std::fs::File;
use std::os::fd::AsFd;

use ampoule_protocol::message::Request;

use super::super::container::{self, CONTAINER, Running, Then};
use super::super::error::SandboxError;
use super::super::keeper::begin;
use super::super::launch::{Container, Launched, Machine};
use super::super::places::Places;
use super::super::record::Record;
use super::super::registry::{Entry, InGuest, Registry, RegistryError};
use super::super::spec;
use super::super::state::Status;
use super::super::streams::{Ends, Files};
use super::super::template::Template;
use super::super::wake::wake;
use super::{ArchiveError, Guest};
use crate::agent::{Client, EXCHANGE_TIME, Events};
use crate::image::Image;

/// What a container is visited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its files are read.
    Read,
    /// Its files are written.
    Write,
}

/// Has something done with the guest of a container. For one that does not run, a guest is started with its image,
/// its disk and its volumes; its program is not. It cannot be started meanwhile.
pub fn visit<T>(
    places: &Places,
    wanted: &str,
    purpose: Purpose,
    act: impl FnOnce(&Guest, &Entry) -> Result<T, SandboxError>,
) -> Result<T, SandboxError> {
    let registry = Registry::new(places);
    let entry = registry.find(wanted)?;
    if entry.state.status.is_running() {
        return act(&Guest::new(entry.in_guest()), &entry);
    }
    let name = || entry.state.name.clone();
    if entry.state.status == Status::Restarting {
        return Err(SandboxError::NotRunning { name: name(), status: Status::Restarting });
    }
    // One that ends just now is waited for.
    super::super::lifecycle::at_rest(&entry)?;
    let mut record = entry.record()?;
    if purpose == Purpose::Write && record.options.layer_size.is_none() {
        return Err(ArchiveError::InMemory(name()).into());
    }
    let image = record.open_image(places)?;
    // Nobody reads what its program writes.
    (record.options.terminal, record.options.interactive) = (false, false);
    let template = begin::template(places, &record.options);
    let kept = match registry.reopen(&entry.state.id) {
        Err(RegistryError::Kept(_)) => return Err(SandboxError::Copied(name())),
        kept => kept?,
    };
    let copied = kept.folder.copied();
    let marked = File::create(&copied).map(drop);
    let done = marked.map_err(SandboxError::host("cannot mark the container")).and_then(|()| {
        let container = Container { kept: &kept, record: &record, before: Some(&entry.state) };
        let mut visited = Visited::begin(places, &container, &image, template)?;
        let guest =
            Guest::new(InGuest { vsock: visited.machine.vsock(), container: CONTAINER.to_owned() });
        let done =
            act(&guest, &entry).map_err(|error| visited.machine.guest.or_its_death(error))?;
        visited.end()?;
        Ok(done)
    });
    let rested = registry.rest(kept);
    let done = done?;
    rested?;
    Ok(done)
}

/// A guest with a container that waits for its start.
struct Visited {
    machine: Machine,
    /// A guest whose host listens no more ends.
    _events: Option<Events>,
    _waiting: Running,
}

impl Visited {
    /// Starts it; from its kernel on, where a template cannot be restored.
    fn begin(
        places: &Places,
        container: &Container<'_>,
        image: &Image,
        template: Option<Template>,
    ) -> Result<Self, SandboxError> {
        match Self::once(places, container, image, template.as_ref()) {
            Err(SandboxError::Template(_)) => {
                container.kept.folder.remove_guest_sockets();
                Self::once(places, container, image, None)
            }
            begun => begun,
        }
    }

    fn once(
        places: &Places,
        container: &Container<'_>,
        image: &Image,
        template: Option<&Template>,
    ) -> Result<Self, SandboxError> {
        let Record { id, options, .. } = container.record;
        let (mut machine, launched, mounted) =
            Machine::of_image(places, container, image, template)?;
        let mut made = spec::container(id, &image.config, options)?;
        mounted.add_to(&mut made.spec);
        let (events, wake) = match launched {
            Launched::Cold(listener) => {
                (Some(machine.guest.await_ready(listener, None)?.events), None)
            }
            Launched::Warm => {
                (None, Some(wake(made.spec.hostname().as_deref().unwrap_or("ampoule"))?))
            }
        };
        let (vsock, ends) = (machine.vsock(), Ends::Files(Files::default()));
        let create = container::on_image(made, options.layer_size.is_some(), &ends);
        let guest = &mut machine.guest;
        let starting = container::start(&vsock, create, None, wake, Then::Wait)
            .map_err(|error| guest.or_its_death(error))?;
        guest.await_guest(starting.as_fd(), None)?;
        let waiting = starting
            .finish(&ends, || {}, |fd| guest.await_guest(fd, None))
            .map_err(|error| guest.or_its_death(error))?;
        Ok(Self { machine, _events: events, _waiting: waiting })
    }

    /// Has what was written reach the disk, and ends the guest.
    fn end(mut self) -> Result<(), SandboxError> {
        let asked = Client::open(&self.machine.vsock(), EXCHANGE_TIME)
            .and_then(|mut agent| agent.call(&Request::Shutdown));
        asked.map_err(|error| self.machine.guest.or_its_death(error))?;
        self.machine.end()
    }
}
