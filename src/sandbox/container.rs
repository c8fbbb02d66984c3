//! One process in a sandbox, as its keeper sees it: started, fed with signals, waited for.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ampoule_protocol::message::{
    Create, ErrorKind, Exec, ExitStatus, HookState, INIT, ProcessId, Request, Rootfs, RootfsSource,
    Stdio, UserName, Wake, WritableLayer,
};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;

use super::error::SandboxError;
use super::join::{Admitted, Plugged};
use super::launch::{IMAGE_DISK, LAYER_DISK};
use super::registry::InGuest;
use super::signals::{Patience, Signals};
use super::spec::ContainerSpec;
use super::streams::{Ends, Streams};
use crate::agent::{Client, ClientError, EXCHANGE_TIME, Opening};
use crate::terminal;

/// Name of the container in its sandbox.
pub const CONTAINER: &str = "main";

/// How long a signal may take to be passed on: a guest that does not take it is not waited for.
const SIGNAL_TIME: Duration = Duration::from_secs(5);

/// A process that was started.
#[derive(Debug)]
pub struct Running {
    id: ProcessId,
    /// Its pid in the guest, where this is who made it.
    pub pid: Option<i32>,
    has_terminal: bool,
    vsock: PathBuf,
    /// Carries the outstanding wait.
    wait: Client,
    /// Carries signals and sizes, from the first one on; their replies are not looked at, for they
    /// change nothing.
    side: Option<Client>,
    /// Its output.
    pub streams: Streams,
}

/// A container that was asked for, all at once: nothing of it waits for an answer of the guest.
#[derive(Debug)]
pub struct Starting {
    id: ProcessId,
    has_terminal: bool,
    vsock: PathBuf,
    stdio: Stdio,
    opening: Opening,
    /// The guest is to be woken first.
    wakes: bool,
    /// The process is there already.
    goes_on: bool,
    /// It is given interfaces before its program runs.
    networked: bool,
    then: Then,
}

/// What is to become of a container once it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its program runs.
    Start,
    /// Its first process waits for somebody to start it.
    Wait,
}

/// The request for a container on an image's disk.
pub fn on_image(made: ContainerSpec, layer: bool, ends: &Ends) -> Create {
    let stdio = Streams::names(INIT, ends, has_terminal(&made.spec));
    let source = RootfsSource::Block {
        serial: IMAGE_DISK.into(),
        fstype: "erofs".into(),
        sectors: None,
        options: Vec::new(),
    };
    let mut create = create(made, source, stdio);
    if layer {
        let serial = LAYER_DISK.into();
        create.rootfs.writable = WritableLayer::Disk { serial, sectors: None };
    }
    create
}

/// The request for a container in another's sandbox, on disks that were plugged in.
pub fn on_plugged(made: ContainerSpec, admitted: &Admitted, ends: &Ends) -> Create {
    let name = &admitted.container;
    let stdio = Streams::names(&format!("{name}-{INIT}"), ends, has_terminal(&made.spec));
    let Plugged { serial, sectors } = admitted.image.clone();
    let source = RootfsSource::Block {
        serial,
        fstype: "erofs".into(),
        sectors: Some(sectors),
        options: Vec::new(),
    };
    let mut create = create(made, source, stdio);
    create.container.clone_from(name);
    if let Some(Plugged { serial, sectors }) = admitted.layer.clone() {
        create.rootfs.writable = WritableLayer::Disk { serial, sectors: Some(sectors) };
    }
    create
}

/// Ends a container of a guest, and has the agent forget it; nothing to do where it knows none.
pub fn put_out(vsock: &Path, container: &str, time: Duration) -> Result<(), ClientError> {
    let mut agent = Client::open(vsock, time)?;
    let request = Request::Delete { container: container.to_owned() };
    let kind = |done: &Result<(), ClientError>| match done {
        Err(ClientError::Agent(error)) => Some(error.kind),
        _ => None,
    };
    let deleted = agent.call(&request);
    match kind(&deleted) {
        Some(ErrorKind::NotFound) => Ok(()),
        Some(ErrorKind::WrongState) => {
            let id = ProcessId::init(container);
            let signal = Signal::SIGKILL as i32;
            let killed = agent.call(&Request::Kill { id: id.clone(), signal, all: true });
            if kind(&killed).is_none() {
                killed?;
            }
            agent.send(&Request::Wait(id))?;
            agent.receive_exited()?;
            agent.call(&request)
        }
        _ => deleted,
    }
}

fn has_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false)
}

/// Asks for a container and its first process, of a guest that is first to be woken where it was
/// restored.
pub fn start(
    vsock: &Path,
    create: Create,
    network: Option<Request>,
    wake: Option<Wake>,
    then: Then,
) -> Result<Starting, SandboxError> {
    let id = ProcessId::init(&create.container);
    let has_terminal = has_terminal(&create.spec);
    let stdio = create.stdio.clone();
    let mut opening = Client::begin(vsock, EXCHANGE_TIME)?;
    let wakes = wake.is_some();
    if let Some(wake) = wake {
        opening.send(&Request::Wake(Box::new(wake)))?;
    }
    opening.send(&Request::Create(Box::new(create)))?;
    let networked = network.is_some();
    if let Some(network) = network {
        opening.send(&network)?;
    }
    if then == Then::Start {
        opening.send(&Request::Start(id.clone()))?;
    }
    opening.send(&Request::Wait(id.clone()))?;
    let vsock = vsock.to_owned();
    let goes_on = false;
    Ok(Starting { id, has_terminal, vsock, stdio, opening, wakes, goes_on, networked, then })
}

/// The request for a container that is never started, over the guest's own files.
pub fn rehearsal(made: ContainerSpec) -> Create {
    create(made, RootfsSource::Directory { path: "/".into() }, Stdio::default())
}

fn create(made: ContainerSpec, source: RootfsSource, stdio: Stdio) -> Create {
    Create {
        container: CONTAINER.to_owned(),
        spec: Box::new(made.spec),
        rootfs: Rootfs { source, writable: WritableLayer::Tmpfs { size: None } },
        block_devices: Vec::new(),
        files: Vec::new(),
        networked: false,
        identity: HookState::default(),
        user: user_name(made.user, made.groups),
        stdio,
    }
}

/// Groups have names in the image, too.
fn user_name(user: Option<String>, groups: Vec<String>) -> Option<UserName> {
    if user.is_none() && groups.is_empty() {
        return None;
    }
    Some(UserName { user: user.unwrap_or_default(), groups })
}

/// Asks the guest of a fork for the process that came along in it.
pub fn go_on(
    vsock: &Path,
    has_terminal: bool,
    ends: &Ends,
    wake: Wake,
) -> Result<Starting, SandboxError> {
    let id = ProcessId::init(CONTAINER);
    let stdio = Streams::names(&fresh_name("fork")?, ends, has_terminal);
    let mut opening = Client::begin(vsock, EXCHANGE_TIME)?;
    opening.send(&Request::Wake(Box::new(wake)))?;
    opening.send(&Request::Attach { id: id.clone(), stdio: stdio.clone() })?;
    opening.send(&Request::Release)?;
    opening.send(&Request::Wait(id.clone()))?;
    let vsock = vsock.to_owned();
    let (wakes, goes_on, networked, then) = (true, true, false, Then::Start);
    Ok(Starting { id, has_terminal, vsock, stdio, opening, wakes, goes_on, networked, then })
}

/// Unique in the guest, without asking anyone.
pub fn fresh_name(kind: &str) -> Result<String, SandboxError> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes)
        .map_err(std::io::Error::other)
        .map_err(SandboxError::host("cannot get random bytes"))?;
    Ok(format!("{kind}-{:016x}", u64::from_le_bytes(bytes)))
}

impl Starting {
    /// Waits until the process is as far as was asked for; `woken` is called when the guest is awake.
    /// Each answer is waited for by `answered`, which may give up: an agent that does not answer does
    /// not keep its keeper from anything.
    pub fn finish(
        self,
        ends: &Ends,
        woken: impl FnOnce(),
        mut answered: impl FnMut(BorrowedFd<'_>) -> Result<(), SandboxError>,
    ) -> Result<Running, SandboxError> {
        let Self { id, has_terminal, vsock, stdio, opening, wakes, goes_on, networked, then } =
            self;
        let mut wait = opening.finish()?;
        if wakes {
            answered(wait.as_fd())?;
            wait.receive_done()?;
            woken();
        }
        // The agent takes streams before and after their request: they are connected while it makes
        // the container.
        let mut streams = Streams::attach(&vsock, &stdio, ends)?;
        let mut pid = None;
        let mut arrive = || -> Result<(), SandboxError> {
            answered(wait.as_fd())?;
            if goes_on {
                wait.receive_done()?;
            } else {
                pid = Some(wait.receive_created()?);
            }
            if networked {
                answered(wait.as_fd())?;
                wait.receive_done()?;
            }
            if then == Then::Start {
                answered(wait.as_fd())?;
                wait.receive_done()?;
            }
            Ok(())
        };
        let arrived = arrive();
        streams.settle(arrived)?;
        Ok(Running { id, pid, has_terminal, vsock, wait, side: None, streams })
    }
}

impl AsFd for Starting {
    /// Readable when the guest answers, or is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opening.as_fd()
    }
}

/// A container's first process, whose streams somebody else keeps.
#[derive(Debug)]
pub struct Heard {
    id: ProcessId,
    vsock: PathBuf,
    wait: Client,
}

impl Heard {
    /// Begins to wait for its end.
    pub fn open(place: InGuest) -> Result<Self, SandboxError> {
        let InGuest { vsock, container } = place;
        let id = ProcessId::init(&container);
        let mut wait = Client::open(&vsock, EXCHANGE_TIME)?;
        wait.send(&Request::Wait(id.clone()))?;
        Ok(Self { id, vsock, wait })
    }

    /// With the streams, which whoever keeps them carries to these.
    pub fn with(self, has_terminal: bool, streams: Streams) -> Running {
        let Self { id, vsock, wait } = self;
        Running { id, pid: None, has_terminal, vsock, wait, side: None, streams }
    }
}

/// Starts a further process in the container.
pub fn exec(vsock: &Path, exec: Exec, ends: &Ends) -> Result<Running, SandboxError> {
    let id = ProcessId { container: exec.container.clone(), process: exec.process.clone() };
    let terminal = exec.spec.terminal().unwrap_or(false);
    let stdio: Stdio = exec.stdio.clone();
    let mut wait = Client::open(vsock, EXCHANGE_TIME)?;
    wait.send(&Request::Exec(Box::new(exec)))?;
    let mut streams = Streams::attach(vsock, &stdio, ends)?;
    let mut pid = None;
    streams.settle(wait.receive_created().map(|created| pid = Some(created)))?;
    wait.send(&Request::Wait(id.clone()))?;
    let vsock = vsock.to_owned();
    Ok(Running { id, pid, has_terminal: terminal, vsock, wait, side: None, streams })
}

impl Running {
    /// Passes the next signal on: whether the caller's patience has ended with it.
    pub fn pass_next_on(
        &mut self,
        signals: &Signals,
        patience: &mut Patience,
    ) -> Result<bool, SandboxError> {
        let signal = signals.next().map_err(SandboxError::host("cannot read a signal"))?;
        let Some(signal) = signal else { return Ok(false) };
        // A sandbox that can no longer be told is one whose end is under way.
        let _ = self.pass_on(signal);
        Ok(patience.is_over(signal, Instant::now()))
    }

    /// Passes the next signal on, however often the caller asked for an end.
    pub fn pass_on_next(&mut self, signals: &Signals) -> Result<(), SandboxError> {
        self.pass_next_on(signals, &mut Patience::default()).map(drop)
    }

    /// Whether the process has a terminal.
    pub fn has_terminal(&self) -> bool {
        self.has_terminal
    }

    /// Gives the process's terminal the size of this process's own, which may have changed while
    /// nobody listened.
    pub fn follow_terminal(&mut self) {
        // A sandbox that can no longer be told is one whose end is under way.
        let _ = self.pass_on(Signal::SIGWINCH);
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        let _ = self.pass_on(Signal::SIGKILL);
    }

    /// Takes the end that was waited for. Blocks: wait for [`Running::as_fd`] first.
    pub fn take_exit(&mut self) -> Result<ExitStatus, ClientError> {
        self.wait.receive_exited()
    }

    /// Passes a signal on; a change of the terminal's size becomes just that.
    fn pass_on(&mut self, signal: Signal) -> Result<(), ClientError> {
        let side = match &mut self.side {
            Some(side) => side,
            none => none.insert(Client::open(&self.vsock, SIGNAL_TIME)?),
        };
        // Unread, they would in time stop the agent from reading.
        side.discard_replies();
        if signal == Signal::SIGWINCH {
            let Some((rows, columns)) = terminal::size().filter(|_| self.has_terminal) else {
                return Ok(());
            };
            return side.send(&Request::Resize { id: self.id.clone(), rows, columns });
        }
        let signal = signal as i32;
        side.send(&Request::Kill { id: self.id.clone(), signal, all: false })
    }
}

impl AsFd for Running {
    /// Readable when the process has ended (or its sandbox has).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }
}
