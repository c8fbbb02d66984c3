//! The monitor's own life, in order: configuration, machine, events, end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use super::channel::{Channel, ChannelError, MAX_DESCRIPTORS};
use super::control::{Cause, Jailed, MonitorConfig, MonitorEvent, Start, TouchedPages};
use super::jail::{self, Jail, JailError};
use super::ports::{Closed, Ports};
use super::seccomp::{self, violation};
use super::server::{Asker, Server};
use super::spawn::CONTROL;
use crate::clock::now_us;
use crate::report::chain;
use crate::vmm::devices::list::DeviceError;
use crate::vmm::devices::virtio::fs;
use crate::vmm::exit::Exit;
use crate::vmm::host::{Confinement, Opened, Role};
use crate::vmm::machine::{Machine, MachineError, Running};
use crate::vmm::opening;
use crate::vmm::snapshot::Snapshot;
use crate::vmm::snapshot::touched::Pages;

/// Most of the console that is told, in bytes: the last lines say why a guest died.
const CONSOLE_LIMIT: usize = 4096;

/// Why there is no monitor, beyond what it tells its keeper.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// not started by a keeper
    #[error("a monitor is started by a keeper, which gives it a control socket")]
    NoKeeper(#[source] io::Error),
    /// the control socket
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// the host's kernel
    #[error("the monitor cannot wait for events")]
    Wait(#[source] io::Error),
}

/// Runs the machine that the keeper asks for, until it or the keeper ends.
pub fn main() -> Result<(), MonitorError> {
    let entered_us = now_us();
    die_of_panics();
    share_one_heap();
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    // It was executed by a path that says nothing.
    let _ = prctl::set_name(c"ampoule");
    // SAFETY: a keeper has put it there for this alone; whoever else starts a monitor has nothing there.
    let control = unsafe { Channel::given(CONTROL) }.map_err(MonitorError::NoKeeper)?;
    // The keeper reads its signals from a descriptor; a monitor is ended by them.
    SigSet::all().thread_unblock().map_err(|errno| MonitorError::Wait(errno.into()))?;
    let received = control.receive_with::<MonitorConfig>(MAX_DESCRIPTORS)?;
    let Some((config, descriptors)) = received else { return Ok(()) };
    let (running, listener) = match start(config, Descriptors(descriptors.into_iter()))? {
        Ok(started) => started,
        Err(error) => {
            let snapshot = matches!(&error, StartError::Machine(error) if error.is_of_a_snapshot());
            tell(&control, &MonitorEvent::Failed { message: chain(&error), snapshot });
            return Ok(());
        }
    };
    serve(&control, &running, listener, entered_us)?;
    running.stop();
    let console = running.console();
    let cause = cause(running.finish());
    let console = tail(&console.tail());
    tell(&control, &MonitorEvent::Ended { cause, console });
    // There is nothing left to be dropped that would not go with the process.
    process::exit(0)
}

/// What came with the configuration, one by one.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn next(&mut self) -> Result<OwnedFd, ChannelError> {
        self.0.next().ok_or(ChannelError::Descriptors(0))
    }

    fn next_if(&mut self, handed_over: bool) -> Result<Option<OwnedFd>, ChannelError> {
        handed_over.then(|| self.next()).transpose()
    }
}

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("the monitor cannot be confined")]
    Confine(#[source] io::Error),
}

/// Makes the machine that is asked for, and lets it run; and the socket that others connect to. Once
/// everything is open that it is made of, and before any of that is read, all rights are given up.
///
/// The outer error is that of a keeper that hands over too little.
fn start(
    config: MonitorConfig,
    mut descriptors: Descriptors,
) -> Result<Result<(Running, Option<OwnedFd>), StartError>, ChannelError> {
    let jailed = config.jail;
    let user_namespace = descriptors.next_if(jailed.is_some_and(|jail| jail.user_namespace))?;
    let mut start = config.machine;
    if let Some(share) = start.given_share() {
        share.opened = Opened::new(descriptors.next()?);
    }
    let sockets = Sockets {
        vsock: descriptors
            .next_if(config.vsock)?
            .map(|socket| Arc::new(UnixListener::from(socket))),
        ports: descriptors.next_if(config.ports)?,
    };
    let listener = descriptors.next_if(config.control)?;
    let files = match &start {
        Start::Boot(_) => None,
        Start::Restore(_, touched) => {
            let (state, memory) = (File::from(descriptors.next()?), descriptors.next()?.into());
            let known = descriptors.next_if(*touched == TouchedPages::Known)?;
            Some((state, memory, known))
        }
    };
    let confinement = Arc::new(Seal { jailed, seccomp: config.seccomp });
    let started = || {
        sockets.plug(&mut start);
        open(&mut start, &confinement)?;
        if config.seccomp {
            violation::install().map_err(StartError::Confine)?;
        }
        match jailed {
            Some(jailed) => {
                let shares = shares(&start);
                Jail { identity: jailed.identity, user_namespace, shares }.enter()?;
            }
            None => jail::limit_resources(start.serves_files())
                .map_err(|errno| StartError::Confine(errno.into()))?,
        }
        let running = make(start, files)?.start()?;
        confinement.confine(Role::Control).map_err(StartError::Confine)?;
        Ok((running, listener))
    };
    Ok(started())
}

/// The sockets of a machine's vsock device.
struct Sockets {
    vsock: Option<Arc<UnixListener>>,
    ports: Option<OwnedFd>,
}

impl Sockets {
    fn plug(self, start: &mut Start) {
        let vsock = match start {
            Start::Boot(config) => &mut config.vsock,
            Start::Restore(plugs, _) => &mut plugs.vsock,
        };
        if let Some(config) = vsock {
            config.listener = self.vsock;
            config.ports = Some(match self.ports {
                Some(socket) => Arc::new(Ports::from(socket)),
                None => Arc::new(Closed),
            });
        }
    }
}

/// Opens everything that the machine is made of.
fn open(start: &mut Start, confinement: &Arc<Seal>) -> Result<(), MachineError> {
    // A jail begins here: what is shared is put together in a namespace that the monitor leaves empty.
    let alone = confinement.jailed.is_some();
    if alone {
        fs::own_mounts().map_err(DeviceError::from)?;
    }
    let host = match start {
        Start::Boot(config) => {
            opening::machine(config, alone)?;
            &mut config.host
        }
        Start::Restore(plugs, _) => {
            opening::plugs(plugs, alone)?;
            &mut plugs.host
        }
    };
    host.confinement = Some(confinement.clone());
    Ok(())
}

/// Tops of the directories that the machine serves.
fn shares(start: &Start) -> Vec<BorrowedFd<'_>> {
    let shares = start.shares().iter();
    shares.filter_map(|share| share.opened.get()).map(|top| top.as_fd()).collect()
}

/// A snapshot's state, its memory, and the pages that starts from it touch.
type SnapshotFiles = (File, File, Option<OwnedFd>);

fn make(start: Start, files: Option<SnapshotFiles>) -> Result<Machine, MachineError> {
    match (start, files) {
        (Start::Restore(plugs, touched), Some((state, memory, known))) => {
            let mut snapshot = Snapshot::read(&state, memory)?;
            match known {
                Some(known) => snapshot.expect(&File::from(known)),
                None if touched == TouchedPages::Watched => snapshot.pages = Pages::Watched,
                None => {}
            }
            Machine::restore(snapshot, plugs)
        }
        (Start::Restore(..), None) => Err(MachineError::NoReason),
        (Start::Boot(config), _) => Machine::new(config),
    }
}

/// What each thread of a monitor gives up for itself.
#[derive(Debug)]
struct Seal {
    jailed: Option<Jailed>,
    seccomp: bool,
}

impl Confinement for Seal {
    fn confine(&self, role: Role) -> io::Result<()> {
        if let Some(jailed) = self.jailed {
            jail::narrow(jailed, role)?;
        }
        if self.seccomp { seccomp::apply(role) } else { Ok(()) }
    }
}

/// Tells the keeper, if there still is one.
fn tell(control: &Channel, event: &MonitorEvent) {
    let _ = control.send(event);
}

/// Answers the keeper, and whoever connects to `listener`, until the machine or the keeper ends.
fn serve(
    control: &Channel,
    running: &Running,
    listener: Option<OwnedFd>,
    entered_us: u64,
) -> Result<(), MonitorError> {
    let mut server = Server::new(running, listener, entered_us);
    // SAFETY: the descriptor lives as long as `running`, which this call borrows.
    let ended = unsafe { BorrowedFd::borrow_raw(running.exit_event()) };
    loop {
        let watched = [ended, control.as_fd()].into_iter().chain(server.descriptors());
        let mut fds: Vec<_> = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(MonitorError::Wait(errno.into())),
            Ok(_) => {}
        }
        if fds[0].any() == Some(true) {
            return Ok(());
        }
        if fds[1].any() == Some(true) && !server.attend(control, Asker::Keeper)? {
            return Ok(());
        }
        server.process();
    }
}

fn cause(end: Result<Exit, MachineError>) -> Cause {
    match end {
        Ok(Exit::PowerOff | Exit::Reset) => Cause::Reset,
        Ok(Exit::GuestPanic { message }) => Cause::Panic { message },
        Ok(Exit::Stopped) => Cause::Stopped,
        Err(error) => Cause::Failed { message: chain(&error) },
    }
}

/// The end of the console, from the beginning of a line.
fn tail(console: &str) -> String {
    let mut from = console.len().saturating_sub(CONSOLE_LIMIT);
    while !console.is_char_boundary(from) {
        from += 1;
    }
    let cut = &console[from..];
    let line = if from == 0 { 0 } else { cut.find('\n').map_or(0, |at| at + 1) };
    cut[line..].to_owned()
}

/// Has all threads allocate from the one heap that begins with the process. glibc gives each thread one
/// of its own otherwise; to give memory of those back, it reads a file of /proc, which no thread may do.
/// Devices allocate little: they do not wait for each other.
fn share_one_heap() {
    // SAFETY: no memory is involved but the allocator's own, and no other thread is there yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// A thread that panics leaves a machine that nobody serves: the whole process goes, and its
/// keeper tells what it said.
fn die_of_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consoles_end_begins_with_a_line() {
        assert_eq!(tail("a\nb\n"), "a\nb\n");
        let long = "äöü line\n".repeat(2000);
        let end = tail(&long);
        assert!(end.len() <= CONSOLE_LIMIT && end.starts_with("äöü line\n"));
    }
}
