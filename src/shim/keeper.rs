//! The thread that keeps the machine of a sandbox. It starts the monitor, whose life is tied to it, hears
//! of the guest's death, and does what others want done with the machine in between.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::{ShimError, host};
use crate::agent::Events;
use crate::agent::{Client, EXCHANGE_TIME};
use crate::clock::now_us;
use crate::report::chain;
use crate::sandbox::launch::{Backing, Launched, Machine};
use crate::sandbox::monitored::wait;
use crate::sandbox::template::{Template, Templates};
use crate::sandbox::wake::wake;
use crate::sandbox::{Folder, Places, SandboxError, Shape};
use ampoule_protocol::message::Request;

/// What is to be kept.
#[derive(Debug)]
pub struct Wanted {
    /// Where sandboxes and templates are.
    pub places: Places,
    /// The machine.
    pub shape: Shape,
    /// What is plugged in from its first moment on.
    pub backing: Backing,
    /// Name of the guest.
    pub hostname: String,
}

/// What is known of a machine that runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The socket of its guest.
    pub vsock: PathBuf,
    /// The monitor's pid.
    pub pid: i32,
    /// The sandbox's folder.
    pub folder: Option<Folder>,
    /// When its agent was awake.
    pub ready_us: u64,
    /// The guest was restored from a template.
    pub warm: bool,
}

type Act = Box<dyn FnOnce(&mut Machine) + Send>;

enum Command {
    Do(Act),
    End(Sender<Result<(), SandboxError>>),
}

/// A handle on the thread. Dropping it ends the machine.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    wake: std::sync::Arc<EventFd>,
}

impl Keeper {
    /// Starts a machine, whose agent answers when this returns. `died` is called, once, if it ends by
    /// itself.
    pub fn start(
        wanted: Wanted,
        died: impl FnOnce(String) + Send + 'static,
    ) -> Result<(Self, Facts), ShimError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).map_err(host("make an eventfd"))?;
        let wake = std::sync::Arc::new(wake);
        let (commands, receiver) = channel();
        let (told, facts) = channel();
        let theirs = std::sync::Arc::clone(&wake);
        let life = move || match begin(&wanted) {
            Err(error) => {
                let _ = told.send(Err(error));
            }
            Ok((machine, events)) => {
                let facts = Facts {
                    vsock: machine.vsock(),
                    pid: machine.guest.pid(),
                    folder: machine.kept().map(|kept| kept.folder.clone()),
                    ready_us: now_us(),
                    warm: machine.guest.timings.warm,
                };
                // Its end would be the guest's.
                let _events = events;
                if told.send(Ok(facts)).is_ok() {
                    keep(machine, &receiver, &theirs, died);
                }
            }
        };
        let thread = thread::Builder::new().name("keeper".into());
        thread.spawn(life).map_err(host("start a thread"))?;
        let ended = || ShimError::Host {
            what: "start the sandbox",
            source: io::Error::other("its keeper has ended"),
        };
        let facts = facts.recv().map_err(|_| ended())??;
        Ok((Self { commands, wake }, facts))
    }

    fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // An eventfd that is full is one that wakes already.
        let _ = self.wake.write(1);
        sent
    }

    /// Does something with the machine, and waits for it; nothing where it has ended.
    pub fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Machine) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, result) = channel();
        let act = move |machine: &mut Machine| {
            let _ = done.send(act(machine));
        };
        if !self.send(Command::Do(Box::new(act))) {
            return None;
        }
        result.recv().ok()
    }

    /// Ends the machine and clears everything away; nothing to do where it has ended.
    pub fn end(&self) -> Result<(), ShimError> {
        let (done, result) = channel();
        if !self.send(Command::End(done)) {
            return Ok(());
        }
        Ok(result.recv().unwrap_or(Ok(()))?)
    }
}

/// Starts the machine; the agent's events, where it was booted.
fn begin(wanted: &Wanted) -> Result<(Machine, Option<Events>), ShimError> {
    let templates = Templates::new(wanted.places.templates());
    let warn = |warning: String| log::warn!("{warning}");
    let begin = |template: Option<&Template>| begin_with(wanted, template);
    Ok(templates.begin(&wanted.shape, warn, begin)?)
}

fn begin_with(
    wanted: &Wanted,
    template: Option<&Template>,
) -> Result<(Machine, Option<Events>), SandboxError> {
    let backing = wanted.backing.clone();
    let (mut machine, launched) = Machine::start(&wanted.places, &wanted.shape, backing, template)?;
    let events = match launched {
        Launched::Cold(listener) => Some(machine.guest.await_ready(listener, None)?.events),
        Launched::Warm => None,
    };
    let mut opening = Client::begin(&machine.vsock(), EXCHANGE_TIME)
        .map_err(|error| machine.guest.or_its_death(error))?;
    opening
        .send(&Request::Wake(Box::new(wake(&wanted.hostname)?)))
        .map_err(|error| machine.guest.or_its_death(error))?;
    machine.guest.await_guest(opening.as_fd(), None)?;
    opening
        .finish()
        .and_then(|mut agent| agent.receive_done())
        .map_err(|error| machine.guest.or_its_death(error))?;
    if let Some(template) = template.filter(|template| template.touched.is_none()) {
        machine.guest.add_touched(template)?;
    }
    Ok((machine, events))
}

/// Keeps the machine to its end.
fn keep(
    mut machine: Machine,
    commands: &Receiver<Command>,
    wake: &EventFd,
    died: impl FnOnce(String),
) {
    loop {
        let mut fds = [
            PollFd::new(wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(machine.guest.as_fd(), PollFlags::POLLIN),
        ];
        match wait(&mut fds, PollTimeout::NONE) {
            Ok(Some(0)) => {
                // Whatever it counts: the commands are looked at.
                let _ = wake.read();
                while let Ok(command) = commands.try_recv() {
                    match command {
                        Command::Do(act) => act(&mut machine),
                        Command::End(done) => {
                            let _ = done.send(machine.end());
                            return;
                        }
                    }
                }
                if commands_closed(commands) {
                    return;
                }
            }
            Ok(_) => {
                let death = match machine.guest.death() {
                    Ok(None) => continue,
                    Ok(Some(death)) | Err(death) => death,
                };
                let reason = chain(&death);
                log::error!("{reason}");
                if let Err(error) = machine.end() {
                    log::error!("{}", chain(&error));
                }
                return died(reason);
            }
            Err(error) => {
                log::error!("{}", chain(&error));
                return died(chain(&error));
            }
        }
    }
}

/// Nobody holds the handle any more.
fn commands_closed(commands: &Receiver<Command>) -> bool {
    matches!(commands.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The thread finds that there is nobody left, ends the machine and clears it away.
        let (closed, _) = channel();
        drop(std::mem::replace(&mut self.commands, closed));
        let _ = self.wake.write(1);
    }
}
