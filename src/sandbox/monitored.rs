//! A guest that this process keeps, by way of its monitor: the wait for its agent, and its death.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::error::SandboxError;
use super::rates::NetRates;
use super::signals::{self, Signals};
use super::template::Template;
use super::timings::Timings;
use ampoule_protocol::READY_PORT;

use crate::agent::{ClientError, Ready, ReadyListener};
use crate::clock::now_us;
use crate::monitor::control::{
    Cause, Jailed, MonitorConfig, MonitorEvent, MonitorRequest, NicKind, Start,
};
use crate::monitor::group::{self, Group};
use crate::monitor::ports;
use crate::monitor::seccomp::violation;
use crate::monitor::server;
use crate::monitor::spawn::{Monitor, Wanted};
use crate::report::chain;
use crate::vmm::config::DiskConfig;
use crate::vmm::devices::virtio::{block, net};

/// How long a guest may take to boot. It bounds what a hung guest can hold up; a host with hardware
/// virtualization needs less than a second.
const READY_TIME: Duration = Duration::from_secs(120);

/// A guest and its monitor. Dropping it ends both.
#[derive(Debug)]
pub struct Monitored {
    monitor: Monitor,
    /// When what happened.
    pub timings: Timings,
}

/// A network interface that is plugged in.
#[derive(Debug)]
pub struct Nic<'a> {
    /// The device's hardware address from now on, of which the agent tells the guest.
    pub mac: Option<[u8; 6]>,
    /// Where its frames go.
    pub backend: Backend<'a>,
    /// How many of them.
    pub rates: &'a NetRates,
}

/// Where the frames of a network interface go.
#[derive(Debug)]
pub enum Backend<'a> {
    /// To a tap interface, whose queues were opened as [`crate::vmm::devices::virtio::net::open`] does.
    Tap(Vec<BorrowedFd<'a>>),
    /// To whoever is at the other end of a Unix stream socket, each behind its length in 4 bytes, the most
    /// significant one first.
    Stream(BorrowedFd<'a>),
}

/// What the wait for a guest brought.
enum Happened {
    Monitor,
    Guest,
    Signal,
}

impl Monitored {
    /// Starts a monitor, whose sockets are at these paths: that of the guest's vsock ports, and that
    /// for other commands. Whoever connects to them from here on is let in when the guest runs.
    ///
    /// A share whose entries come and go has its top open. `snapshot` is what the start of a snapshot is handed. `group` is the monitor's own control
    /// group; without it, it is in this process's.
    pub fn start(
        id: &str,
        group: Option<group::Wanted>,
        mut machine: Start,
        vsock: &Path,
        control: &Path,
        snapshot: &[BorrowedFd<'_>],
    ) -> Result<Self, SandboxError> {
        let group = group.map(|wanted| Group::make(id, &wanted)).transpose();
        let group = group.map_err(SandboxError::host(
            "cannot make the sandbox's control group (--cgroup-parent)",
        ))?;
        let listening = SandboxError::host("cannot listen for the sandbox's clients");
        // A guest that boots has one thing to say: that its agent is ready.
        let boots = matches!(machine, Start::Boot(_));
        let ports = boots.then(|| ports::serve(vsock.to_owned(), Some(READY_PORT)));
        let ports = ports.transpose().map_err(&listening)?;
        let vsock: OwnedFd = UnixListener::bind(vsock).map_err(&listening)?.into();
        let control = server::listen_at(control).map_err(&listening)?;
        let top = machine.given_share().and_then(|share| share.opened.get().cloned());
        let mut descriptors: Vec<_> = top.iter().map(|top| top.as_fd()).collect();
        descriptors.push(vsock.as_fd());
        descriptors.extend(ports.iter().map(AsFd::as_fd));
        descriptors.push(control.as_fd());
        descriptors.extend(snapshot);
        let config = MonitorConfig {
            machine,
            vsock: true,
            ports: ports.is_some(),
            control: true,
            jail: Some(Jailed::default()),
            seccomp: true,
        };
        let monitor = Monitor::spawn(Wanted {
            id,
            config,
            descriptors,
            console: false,
            group: group.flatten(),
        })?;
        Ok(Self { monitor, timings: Timings::default() })
    }

    /// The monitor's pid.
    pub fn pid(&self) -> i32 {
        self.monitor.pid()
    }

    /// Waits until the agent of a guest that boots is ready, the guest has died, or a signal asks
    /// for an end.
    pub fn await_ready(
        &mut self,
        listener: ReadyListener,
        signals: Option<&Signals>,
    ) -> Result<Ready, SandboxError> {
        self.await_guest(listener.as_fd(), signals)?;
        let ready = listener.accept().map_err(|error| self.or_its_death(error))?;
        let hello = &ready.hello;
        self.timings.agent_us = hello.ready_us.saturating_sub(hello.entered_us);
        self.timings.ready_us = now_us();
        Ok(ready)
    }

    /// Waits until the guest has made `from_guest` readable, it has died, or a signal asks for an
    /// end.
    pub fn await_guest(
        &mut self,
        from_guest: BorrowedFd<'_>,
        signals: Option<&Signals>,
    ) -> Result<(), SandboxError> {
        let until = Instant::now() + READY_TIME;
        loop {
            match self.wait(from_guest, signals, until)? {
                Happened::Guest => return Ok(()),
                Happened::Monitor => {
                    if let Some(death) = self.death()? {
                        return Err(death);
                    }
                }
                Happened::Signal => {
                    let next = signals.map(Signals::next).transpose();
                    let signal = next.map_err(SandboxError::host("cannot read a signal"))?;
                    if let Some(signal) = signal.flatten().filter(|signal| signals::ends(*signal)) {
                        return Err(SandboxError::Interrupted(signal));
                    }
                }
            }
        }
    }

    fn wait(
        &self,
        from_guest: BorrowedFd<'_>,
        signals: Option<&Signals>,
        until: Instant,
    ) -> Result<Happened, SandboxError> {
        let mut fds = vec![
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            PollFd::new(from_guest, PollFlags::POLLIN),
        ];
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        let left = until.saturating_duration_since(Instant::now());
        match wait(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? {
            Some(0) => Ok(Happened::Monitor),
            Some(1) => Ok(Happened::Guest),
            Some(_) => Ok(Happened::Signal),
            None => Err(SandboxError::NotReady(READY_TIME.as_secs())),
        }
    }

    /// Takes the monitor's next event: the guest's death, or `None` where it lives.
    pub fn death(&mut self) -> Result<Option<SandboxError>, SandboxError> {
        Ok(match self.monitor.event()? {
            Some(MonitorEvent::Ended { cause, console }) => Some(died(&cause, console)),
            Some(MonitorEvent::Failed { message, snapshot: true }) => {
                Some(SandboxError::Template(message))
            }
            Some(MonitorEvent::Failed { message, .. }) => Some(SandboxError::Machine(message)),
            Some(MonitorEvent::Refused { message }) => Some(SandboxError::Refused(message)),
            Some(MonitorEvent::Timings { entered_us, first_run_us }) => {
                self.timings.monitor_us = entered_us;
                self.timings.first_run_us = first_run_us;
                None
            }
            Some(MonitorEvent::Violation { syscall, thread }) => Some(SandboxError::Died {
                reason: violation::describe(syscall, &thread),
                console: String::new(),
            }),
            Some(MonitorEvent::Done | MonitorEvent::Metrics { .. }) => None,
            None => Some(self.gone()),
        })
    }

    /// The death of the guest, where that is what lies behind a failed conversation with it.
    pub fn or_its_death(&mut self, error: impl Into<SandboxError>) -> SandboxError {
        let error = error.into();
        // Only a broken conversation: what the agent answered stands, as does whatever else it was.
        let broken = match &error {
            SandboxError::Agent(error) => !matches!(error, ClientError::Agent(_)),
            SandboxError::Streams(_) => true,
            _ => false,
        };
        if !broken {
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

    /// Asks the monitor for something, with these descriptors, and waits until it is done.
    pub fn ask(
        &mut self,
        request: MonitorRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        self.monitor.ask(request, descriptors)?;
        self.death()?.map_or(Ok(()), Err)
    }

    /// Plugs a disk into a slot: what its configuration names is opened, and locked. Its sectors of 512
    /// bytes, by which the agent knows that the guest has taken its capacity in.
    pub fn plug_disk(&mut self, slot: u8, disk: &DiskConfig) -> Result<u64, SandboxError> {
        let opened = block::open(disk).map_err(|error| SandboxError::Refused(chain(&error)))?;
        let Some(mut file) = opened else {
            return Err(SandboxError::Refused("a disk that is plugged in has a file".into()));
        };
        self.plug_file(slot, &mut file, disk)
    }

    /// The same with a file that is open and locked, whatever the configuration names.
    pub fn plug_file(
        &mut self,
        slot: u8,
        file: &mut File,
        disk: &DiskConfig,
    ) -> Result<u64, SandboxError> {
        // The size in the metadata of a block device is 0.
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(SandboxError::host("cannot find the size of a disk"))?;
        let (read_only, serial) = (disk.read_only, disk.serial.clone());
        let rate_limiter = disk.rate_limiter;
        let request = MonitorRequest::PlugDisk { slot, bytes, read_only, serial, rate_limiter };
        self.ask(request, &[file.as_fd()])?;
        Ok(block::sectors_of(bytes))
    }

    /// Empties a slot for disks. The guest is to have let go of it.
    pub fn unplug_disk(&mut self, slot: u8) -> Result<(), SandboxError> {
        self.ask(MonitorRequest::UnplugDisk { slot }, &[])
    }

    /// Plugs a network interface into a slot.
    pub fn plug_net(&mut self, slot: u8, nic: Nic<'_>) -> Result<(), SandboxError> {
        let (kind, descriptors) = match nic.backend {
            Backend::Tap(queues) if queues.len() <= usize::from(net::MAX_PAIRS) => {
                (NicKind::Tap, queues)
            }
            Backend::Tap(queues) => {
                return Err(SandboxError::Refused(format!(
                    "a tap with {} queues: a network interface has at most {}",
                    queues.len(),
                    net::MAX_PAIRS
                )));
            }
            Backend::Stream(socket) => {
                // The monitor may not ask.
                if getsockopt(&socket, sockopt::SockType) != Ok(SockType::Stream) {
                    let why = "what a network interface's frames go to is no stream socket";
                    return Err(SandboxError::Refused(why.into()));
                }
                (NicKind::Stream, vec![socket])
            }
        };
        let request = MonitorRequest::PlugNet {
            slot,
            mac: nic.mac,
            backend: kind,
            rx_rate_limiter: nic.rates.rx,
            tx_rate_limiter: nic.rates.tx,
        };
        self.ask(request, &descriptors)
    }

    /// Empties a slot for network interfaces: the guest's stays, and leads nowhere.
    pub fn unplug_net(&mut self, slot: u8) -> Result<(), SandboxError> {
        self.ask(MonitorRequest::UnplugNet { slot }, &[])
    }

    /// Adds to a template what the first start from it, which is this one's, has touched. One that
    /// was no example is none.
    pub fn add_touched(&mut self, template: &Template) -> Result<(), SandboxError> {
        let told = template.add_touched(|file| self.ask(MonitorRequest::Touched, &[file.as_fd()]));
        match told {
            Err(SandboxError::Refused(_)) => Ok(()),
            told => told,
        }
    }

    fn gone(&mut self) -> SandboxError {
        let reason = match self.monitor.end() {
            Ok((status, words)) if words.is_empty() => format!("its monitor ended ({status})"),
            Ok((status, words)) => format!("its monitor ended ({status}): {words}"),
            Err(error) => format!("its monitor ended ({error})"),
        };
        SandboxError::Died { reason, console: String::new() }
    }

    /// Ends the guest.
    pub fn end(&mut self) -> Result<(), SandboxError> {
        self.monitor.end().map(drop).map_err(SandboxError::host("cannot end the sandbox's monitor"))
    }
}

impl AsFd for Monitored {
    /// Readable when [`Monitored::death`] has something to say.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

fn died(cause: &Cause, console: String) -> SandboxError {
    SandboxError::Died { reason: cause.describe(), console }
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
