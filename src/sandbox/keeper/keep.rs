//! From a program's start to its end: what its keeper hears meanwhile.

use std::os::fd::AsFd;

use ampoule_protocol::message::{Event, ExitStatus, Request, SmallFile};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::super::container::{CONTAINER, Running};
use super::super::error::SandboxError;
use super::super::join::Joining;
use super::super::keeper_socket::{Ask, Asked, KeeperSocket};
use super::super::launch::Sandbox;
use super::super::monitored::wait;
use super::super::network::{AttachError, Attachment, Who, own_namespace};
use super::super::options::Options;
use super::super::outlet::Outlet;
use super::super::places::Places;
use super::super::registry::Registry;
use super::super::signals::{self, Patience, Signals};
use super::super::state::Status;
use super::begin;
use super::home::Home;
use super::joiners::{Host, Joiners};
use crate::agent::{Client, EXCHANGE_TIME, Events};
use crate::report::chain;

/// A container whose program runs, and all that its keeper listens to.
pub struct Keeping<'a> {
    pub places: &'a Places,
    pub options: &'a Options,
    pub home: &'a mut Home,
    /// Its host name.
    pub hostname: &'a str,
    /// Those who share its sandbox.
    pub joiners: Joiners,
    pub running: &'a mut Running,
    /// What its sandbox's agent tells, where that is its own.
    pub agent: Option<&'a mut Events>,
    pub signals: &'a Signals,
    pub socket: &'a KeeperSocket,
    pub outlet: Option<&'a Outlet>,
    /// A user wants the next end to be the last.
    pub stopped: &'a mut bool,
}

impl Keeping<'_> {
    /// Waits for the end of the container's program, passing signals on to it.
    pub fn keep(&mut self) -> Result<ExitStatus, SandboxError> {
        let mut patience = Patience::default();
        loop {
            let mut fds = vec![
                PollFd::new(self.running.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.home.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            let first_joiner = fds.len();
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            fds.extend(self.joiners.channels().map(readable));
            fds.extend(self.agent.as_deref().map(|agent| readable(agent.as_fd())));
            match wait(&mut fds, PollTimeout::NONE)? {
                Some(0) => {
                    let exit = self.running.take_exit();
                    let exit = exit.map_err(|error| self.home.or_its_death(error))?;
                    if let Some(death) = self.home.lost() {
                        return Err(death);
                    }
                    self.drain()?;
                    self.write_out()?;
                    return Ok(exit);
                }
                Some(1) => {
                    if self.running.pass_next_on(self.signals, &mut patience)? {
                        *self.stopped = true;
                        return Ok(ExitStatus { code: 137, oom_killed: false });
                    }
                }
                Some(2) => {
                    if let Some(death) = self.home.death()? {
                        return Err(death);
                    }
                }
                Some(3) => {
                    if let Some(asked) = self.socket.next() {
                        self.serve(asked);
                    }
                }
                Some(other) if other - first_joiner < self.joiners.len() => {
                    if let Some(sandbox) = self.home.own() {
                        self.joiners.part(other - first_joiner, sandbox);
                    }
                }
                _ => self.hear_agent()?,
            }
        }
    }

    fn hear_agent(&mut self) -> Result<(), SandboxError> {
        match self.agent.as_mut().map(|agent| agent.event()) {
            Some(Ok(Some(Event::OutOfMemory { container }))) if container == CONTAINER => {
                self.home.state().oom_killed = true;
            }
            Some(Ok(Some(Event::Fatal { message }))) => {
                return Err(SandboxError::Died { reason: message, console: String::new() });
            }
            // Its end is the guest's, of which the monitor tells more.
            Some(Err(_)) => self.agent = None,
            // What is said of those who share the sandbox, their keepers see.
            Some(Ok(_)) | None => {}
        }
        Ok(())
    }

    /// Waits until the output of an ended program has been written to its last byte. A signal that
    /// asks for an end is heeded here: whoever should read may be stuck.
    fn drain(&self) -> Result<(), SandboxError> {
        loop {
            let mut fds = [
                PollFd::new(self.running.streams.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.home.as_fd(), PollFlags::POLLIN),
            ];
            match wait(&mut fds, PollTimeout::NONE)? {
                Some(1) => {
                    let signal =
                        self.signals.next().map_err(SandboxError::host("cannot read a signal"))?;
                    if signal.is_some_and(signals::ends) {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Has the guest write to its disks what its kernel still holds of what containers wrote, where
    /// anybody will see it.
    fn write_out(&mut self) -> Result<(), SandboxError> {
        let Some(sandbox) = self.home.own() else { return Ok(()) };
        let own = sandbox.state.layer && !sandbox.state.remove;
        let written = own || self.joiners.have_layers();
        // They are to know why they are killed before they are.
        self.joiners = Joiners::default();
        if !written {
            return Ok(());
        }
        let asked = self.home.call(&Request::Shutdown);
        asked.map_err(|error| self.home.or_its_death(error))
    }

    fn serve(&mut self, mut asked: Asked) {
        let done = match asked.ask.clone() {
            Ask::Attach => self.attach(&mut asked),
            Ask::Pause => self.stand_still(true),
            Ask::Resume => self.stand_still(false),
            Ask::Stop => {
                *self.stopped = true;
                Ok(())
            }
            Ask::Connect(attachment) => self.connect(&attachment),
            Ask::Disconnect(network) => self.disconnect(&network),
            Ask::Join(joining) => return self.join(asked, &joining),
        };
        asked.answer(done);
    }

    /// One more container in this one's sandbox.
    fn join(&mut self, asked: Asked, joining: &Joining) {
        match &mut *self.home {
            Home::Own(sandbox) => {
                let init = sandbox.state.init;
                let host = Host { options: self.options, hostname: self.hostname, init };
                self.joiners.admit(asked, joining, sandbox, &host);
            }
            Home::Joined(_) => asked.answer(Err::<(), _>(no_sandbox())),
        }
    }

    fn attach(&self, asked: &mut Asked) -> Result<(), SandboxError> {
        let refused = |why: &str| SandboxError::KeeperRefused(why.to_owned());
        let outlet = self.outlet.ok_or_else(|| refused("the container's output is not kept"))?;
        let attachment = asked.attachment().ok_or_else(|| refused("no sockets came along"))?;
        outlet.attach(attachment).map_err(SandboxError::host("cannot attach"))
    }

    /// One more network, at a device that the guest has free.
    fn connect(&mut self, attachment: &Attachment) -> Result<(), SandboxError> {
        let sandbox = self.home.own().ok_or_else(no_sandbox)?;
        let Sandbox { machine, state, attached, .. } = &mut *sandbox;
        let shape = self.options.shape();
        // It may have another name by now.
        let named = Registry::new(self.places).find(&state.id);
        let name = named.map_or_else(|_| state.name.clone(), |entry| entry.state.name);
        let who = Who { id: &state.id, name: &name, vcpus: shape.vcpus };
        let network = &self.options.network;
        let request =
            attached.connect_one(self.places, who, network, attachment, shape.slots.nets)?;
        let given = attached
            .plug(&mut machine.guest, &self.options.rates.network)
            .and_then(|()| Ok(Client::open(&machine.vsock(), EXCHANGE_TIME)?.call(&request)?));
        if let Err(error) = given {
            // The first failure is the one to tell.
            if let Some((slot, _)) = attached.place_of(&attachment.network) {
                let _ = machine.guest.unplug_net(slot);
                let _ = attached.disconnect_one(slot);
            }
            return Err(error);
        }
        state.networks = attached.told();
        tell_hosts(sandbox, self.hostname, self.options);
        sandbox.write_state()
    }

    fn disconnect(&mut self, network: &str) -> Result<(), SandboxError> {
        let sandbox = self.home.own().ok_or_else(no_sandbox)?;
        let Sandbox { machine, state, attached, .. } = &mut *sandbox;
        let Some((slot, name)) = attached.place_of(network) else {
            let (container, network) = (state.name.clone(), network.to_owned());
            return Err(AttachError::NotOn { container, network }.into());
        };
        let namespace = own_namespace();
        let request = Request::RemoveInterface { namespace, slot, name };
        let taken = Client::open(&machine.vsock(), EXCHANGE_TIME)
            .and_then(|mut agent| agent.call(&request));
        // Whatever the guest says: the other end of its cable is taken out.
        machine.guest.unplug_net(slot)?;
        attached.disconnect_one(slot)?;
        state.networks = attached.told();
        tell_hosts(sandbox, self.hostname, self.options);
        sandbox.write_state()?;
        Ok(taken?)
    }

    fn stand_still(&mut self, still: bool) -> Result<(), SandboxError> {
        let (from, to) = match still {
            true => (Status::Running, Status::Paused),
            false => (Status::Paused, Status::Running),
        };
        let state = self.home.state();
        if state.status != from {
            let (name, status) = (state.name.clone(), state.status);
            return Err(match still {
                true if status == Status::Paused => SandboxError::Paused(name),
                true => SandboxError::NotRunning { name, status },
                false => SandboxError::NotPaused(name),
            });
        }
        let container = self.home.in_guest().container;
        let request = match still {
            true => Request::Pause { container },
            false => Request::Resume { container },
        };
        self.home.call(&request)?;
        self.home.state().status = to;
        self.home.write_state()
    }
}

/// Tells a container in `/etc/hosts` which addresses it has by now, unless it has a file of its own there.
fn tell_hosts(sandbox: &Sandbox, hostname: &str, options: &Options) {
    let files = begin::files(&sandbox.attached, hostname, options);
    let files: Vec<_> = files.into_iter().map(|(file, _)| file).filter(is_hosts).collect();
    if files.is_empty() {
        return;
    }
    let request = Request::WriteFiles { container: CONTAINER.to_owned(), files };
    let told = Client::open(&sandbox.machine.vsock(), EXCHANGE_TIME)
        .and_then(|mut agent| agent.call(&request));
    // It is on its networks whatever it reads of them.
    if let Err(error) = told {
        log::warn!("/etc/hosts is as it was before: {}", chain(&error));
    }
}

fn is_hosts(file: &SmallFile) -> bool {
    file.name == "hosts"
}

/// What is asked of a sandbox, of one who is in another's.
fn no_sandbox() -> SandboxError {
    SandboxError::KeeperRefused("the container is in the sandbox of another one".into())
}
