//! From a program's start to its end: what its keeper hears meanwhile.

use std::os::fd::AsFd;

use ampoule_protocol::message::{Event, ExitStatus, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::super::container::{CONTAINER, Running};
use super::super::error::SandboxError;
use super::super::keeper_socket::{Ask, Asked, KeeperSocket};
use super::super::launch::Sandbox;
use super::super::monitored::wait;
use super::super::outlet::Outlet;
use super::super::signals::{self, Patience, Signals};
use super::super::state::Status;
use crate::agent::{Client, EXCHANGE_TIME, Events};

/// A container whose program runs, and all that its keeper listens to.
pub struct Keeping<'a> {
    pub sandbox: &'a mut Sandbox,
    pub running: &'a mut Running,
    pub agent: &'a mut Events,
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
        let mut events = true;
        loop {
            let mut fds = vec![
                PollFd::new(self.running.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.sandbox.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            if events {
                fds.push(PollFd::new(self.agent.as_fd(), PollFlags::POLLIN));
            }
            match wait(&mut fds, PollTimeout::NONE)? {
                Some(0) => {
                    let exit = self.running.take_exit();
                    let exit =
                        exit.map_err(|error| self.sandbox.machine.guest.or_its_death(error))?;
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
                    if let Some(death) = self.sandbox.machine.guest.death()? {
                        return Err(death);
                    }
                }
                Some(3) => {
                    if let Some(asked) = self.socket.next() {
                        self.serve(asked);
                    }
                }
                _ => match self.agent.event() {
                    Ok(None) => {}
                    Ok(Some(Event::OutOfMemory { .. })) => self.sandbox.state.oom_killed = true,
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
    fn drain(&self) -> Result<(), SandboxError> {
        loop {
            let mut fds = [
                PollFd::new(self.running.streams.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.sandbox.as_fd(), PollFlags::POLLIN),
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

    /// Has the guest write to its disk what its kernel still holds of what the container wrote, where
    /// anybody will see it.
    fn write_out(&mut self) -> Result<(), SandboxError> {
        if !self.sandbox.state.layer || self.sandbox.state.remove {
            return Ok(());
        }
        let ask = || -> Result<(), SandboxError> {
            let mut agent = Client::open(&self.sandbox.machine.vsock(), EXCHANGE_TIME)?;
            Ok(agent.call(&Request::Shutdown)?)
        };
        let asked = ask();
        asked.map_err(|error| self.sandbox.machine.guest.or_its_death(error))
    }

    fn serve(&mut self, mut asked: Asked) {
        let done = match asked.ask {
            Ask::Attach => self.attach(&mut asked),
            Ask::Pause => self.stand_still(true),
            Ask::Resume => self.stand_still(false),
            Ask::Stop => {
                *self.stopped = true;
                Ok(())
            }
        };
        asked.answer(done);
    }

    fn attach(&self, asked: &mut Asked) -> Result<(), SandboxError> {
        let refused = |why: &str| SandboxError::KeeperRefused(why.to_owned());
        let outlet = self.outlet.ok_or_else(|| refused("the container's output is not kept"))?;
        let attachment = asked.attachment().ok_or_else(|| refused("no sockets came along"))?;
        outlet.attach(attachment).map_err(SandboxError::host("cannot attach"))
    }

    fn stand_still(&mut self, still: bool) -> Result<(), SandboxError> {
        let (from, to) = match still {
            true => (Status::Running, Status::Paused),
            false => (Status::Paused, Status::Running),
        };
        let state = &mut self.sandbox.state;
        if state.status != from {
            let (name, status) = (state.name.clone(), state.status);
            return Err(match still {
                true if status == Status::Paused => SandboxError::Paused(name),
                true => SandboxError::NotRunning { name, status },
                false => SandboxError::NotPaused(name),
            });
        }
        let container = CONTAINER.to_owned();
        let request = match still {
            true => Request::Pause { container },
            false => Request::Resume { container },
        };
        Client::open(&self.sandbox.machine.vsock(), EXCHANGE_TIME)?.call(&request)?;
        self.sandbox.state.status = to;
        self.sandbox.write_state()
    }
}
