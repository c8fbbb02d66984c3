//! Starts a sandbox: its folder, its monitor, and the wait for its agent.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::SandboxError;
use super::guest::GuestFiles;
use super::options::Options;
use super::places::Places;
use super::registry::{Kept, Registry};
use super::signals::{self, Signals};
use super::spec;
use super::state::State;
use super::timings::Timings;
use crate::agent::{Ready, ReadyListener};
use crate::clock::now_us;
use crate::image::Image;
use crate::monitor::control::{Cause, MonitorConfig, MonitorEvent, MonitorRequest};
use crate::monitor::spawn::Monitor;
use crate::vmm::config::{DiskConfig, MachineConfig, SerialMode, VsockConfig};

/// How long a guest may take to boot. It bounds what a hung guest can hold up; a host with hardware
/// virtualization needs less than a second.
const READY_TIME: Duration = Duration::from_secs(120);

/// Serial number of the disk that holds the image.
pub const IMAGE_DISK: &str = "image";

/// Context id of every guest: a sandbox's vsock is its own, so they need not differ.
const GUEST_CID: u64 = 3;

/// A sandbox whose keeper is this process. Dropping it leaves nothing behind but, where the options
/// say so, its record.
#[derive(Debug)]
pub struct Sandbox {
    registry: Registry,
    /// `None` once it is cleared away.
    kept: Option<Kept>,
    monitor: Monitor,
    /// What other commands read of it.
    pub state: State,
    /// When what happened.
    pub timings: Timings,
}

/// What the wait for an event of a sandbox brought.
enum Event {
    Monitor,
    Signal,
    Ready,
}

impl Sandbox {
    /// Makes the folder and starts the monitor; the guest boots from here on.
    pub fn launch(
        places: &Places,
        image: &Image,
        options: &Options,
    ) -> Result<(Self, ReadyListener), SandboxError> {
        let command = spec::command(&image.config, options)?;
        let guest = GuestFiles::find(options.kernel.as_deref())?;
        let registry = Registry::new(places);
        let kept = registry.create(options.name.as_deref())?;
        match Self::boot(&kept, image, options, command, &guest) {
            Ok((monitor, state, listener)) => {
                let timings = Timings::default();
                Ok((Self { registry, kept: Some(kept), monitor, state, timings }, listener))
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = registry.remove(kept);
                Err(error)
            }
        }
    }

    fn boot(
        kept: &Kept,
        image: &Image,
        options: &Options,
        command: Vec<String>,
        guest: &GuestFiles,
    ) -> Result<(Monitor, State, ReadyListener), SandboxError> {
        let listener = ReadyListener::bind(&kept.folder.vsock())
            .map_err(SandboxError::host("cannot listen for the guest's agent"))?;
        let machine = machine(kept, image, options, guest);
        let monitor = Monitor::spawn(&kept.id, &MonitorConfig { machine })?;
        // Written while the guest boots.
        let mut state =
            State::new(kept.id.clone(), kept.name.clone(), options.image.clone(), command);
        state.terminal = options.terminal;
        state.remove = options.remove;
        state.monitor = Some(monitor.pid());
        state.write(&kept.folder.state())?;
        Ok((monitor, state, listener))
    }

    /// Waits until the agent is ready, the sandbox has died, or a signal asks for an end.
    pub fn await_ready(
        &mut self,
        listener: ReadyListener,
        signals: &Signals,
    ) -> Result<Ready, SandboxError> {
        let until = Instant::now() + READY_TIME;
        loop {
            match self.wait_for_start(&listener, signals, until)? {
                Event::Monitor => {
                    if let Some(death) = self.death()? {
                        return Err(death);
                    }
                }
                Event::Ready => {
                    let ready = listener.accept().map_err(|error| self.or_its_death(error))?;
                    let hello = &ready.hello;
                    self.timings.agent_us = hello.ready_us.saturating_sub(hello.entered_us);
                    self.timings.ready_us = now_us();
                    return Ok(ready);
                }
                Event::Signal => {
                    let signal =
                        signals.next().map_err(SandboxError::host("cannot read a signal"))?;
                    if let Some(signal) = signal.filter(|signal| signals::ends(*signal)) {
                        return Err(SandboxError::Interrupted(signal));
                    }
                }
            }
        }
    }

    fn wait_for_start(
        &mut self,
        listener: &ReadyListener,
        signals: &Signals,
        until: Instant,
    ) -> Result<Event, SandboxError> {
        let mut fds = [
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        let left = until.saturating_duration_since(Instant::now());
        let ready = wait(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
        match ready {
            Some(0) => Ok(Event::Monitor),
            Some(1) => Ok(Event::Signal),
            Some(_) => Ok(Event::Ready),
            None => Err(SandboxError::NotReady(READY_TIME.as_secs())),
        }
    }

    /// Takes the monitor's next event: the sandbox's death, or `None` where it lives.
    pub fn death(&mut self) -> Result<Option<SandboxError>, SandboxError> {
        Ok(match self.monitor.event()? {
            Some(MonitorEvent::Ended { cause, console }) => Some(died(&cause, console)),
            Some(MonitorEvent::Failed { message }) => Some(SandboxError::Machine(message)),
            Some(MonitorEvent::Timings { entered_us, first_run_us }) => {
                self.timings.monitor_us = entered_us;
                self.timings.first_run_us = first_run_us;
                None
            }
            None => Some(self.monitor_gone()),
        })
    }

    /// The death of the sandbox, where that is what lies behind a failed conversation with it.
    pub fn or_its_death(&mut self, error: impl Into<SandboxError>) -> SandboxError {
        let error = error.into();
        // Only a broken conversation: what the agent answered stands.
        if matches!(&error, SandboxError::Agent(crate::agent::ClientError::Agent(_))) {
            return error;
        }
        loop {
            let mut fds = [PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN)];
            // The sockets close a moment before the monitor has told why.
            match wait(&mut fds, PollTimeout::from(2000u16)) {
                Ok(Some(_)) => match self.death() {
                    Ok(Some(death)) => return death,
                    Ok(None) => {}
                    Err(_) => return error,
                },
                _ => return error,
            }
        }
    }

    /// Asks the monitor when the machine started, and waits for its answer.
    pub fn take_timings(&mut self) -> Result<(), SandboxError> {
        self.monitor.ask(MonitorRequest::Timings)?;
        self.death()?.map_or(Ok(()), Err)
    }

    fn monitor_gone(&mut self) -> SandboxError {
        let reason = match self.monitor.end() {
            Ok((status, words)) if words.is_empty() => format!("its monitor ended ({status})"),
            Ok((status, words)) => format!("its monitor ended ({status}): {words}"),
            Err(error) => format!("its monitor ended ({error})"),
        };
        SandboxError::Died { reason, console: String::new() }
    }

    /// The sandbox's folder.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// The monitor: readable when [`Sandbox::death`] has something to say.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Writes the state down.
    pub fn write_state(&self) -> Result<(), SandboxError> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        Ok(self.state.write(&kept.folder.state())?)
    }

    /// Clears away what killed keepers have left of other sandboxes.
    pub fn sweep(&self) -> Result<(), SandboxError> {
        Ok(self.registry.sweep()?)
    }

    /// Ends the machine and leaves the container's record, or nothing.
    pub fn end(mut self, keep_record: bool) -> Result<Timings, SandboxError> {
        self.monitor.end().map_err(SandboxError::host("cannot end the sandbox's monitor"))?;
        if keep_record {
            self.write_state()?;
            if let Some(kept) = self.kept.take() {
                kept.folder.remove_sockets();
            }
        } else if let Some(kept) = self.kept.take() {
            self.registry.remove(kept)?;
        }
        self.timings.cleared_us = now_us();
        Ok(self.timings)
    }
}

impl Drop for Sandbox {
    /// A start that failed, or a keeper that cannot go on: the machine ends, nothing stays.
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let _ = self.monitor.end();
        let _ = self.registry.remove(kept);
    }
}

fn died(cause: &Cause, console: String) -> SandboxError {
    SandboxError::Died { reason: cause.describe(), console }
}

fn machine(kept: &Kept, image: &Image, options: &Options, guest: &GuestFiles) -> MachineConfig {
    let disk = DiskConfig {
        path: Some(image.rootfs.clone()),
        read_only: true,
        serial: Some(IMAGE_DISK.to_owned()),
    };
    MachineConfig {
        kernel: guest.kernel.clone(),
        initrd: Some(guest.initramfs.clone()),
        cmdline: String::new(),
        vcpus: options.vcpus(),
        memory_mib: options.machine_mib(),
        serial: SerialMode::Off,
        disks: vec![disk],
        nets: Vec::new(),
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            uds_path: kept.folder.vsock(),
            listener: None,
        }),
        rng: true,
        balloon: true,
    }
}

/// Waits for the first of some descriptors: its index, or `None` when the time is over.
pub fn wait(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<Option<usize>, SandboxError> {
    loop {
        match poll(fds, timeout) {
            Ok(0) => return Ok(None),
            Ok(_) => {
                let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
                return Ok(fds.iter().position(ready));
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(SandboxError::host("cannot wait for events")(errno.into())),
        }
    }
}
