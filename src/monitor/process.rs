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
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use super::channel::{Channel, ChannelError, MAX_DESCRIPTORS};
use super::control::{Cause, MonitorConfig, MonitorEvent, Start, TouchedPages};
use super::server::Server;
use crate::clock::now_us;
use crate::report::chain;
use crate::vmm::config::VsockConfig;
use crate::vmm::exit::Exit;
use crate::vmm::machine::{Machine, MachineError, Running};
use crate::vmm::snapshot::Snapshot;
use crate::vmm::snapshot::touched::Pages;

/// Descriptors that a monitor may have open: 1,024 vsock connections and as much again.
const DESCRIPTORS: u64 = 2048;

/// Most of the console that is told, in bytes: the last lines say why a guest died.
const CONSOLE_LIMIT: usize = 4096;

/// Why there is no monitor, beyond what it tells its keeper.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// not started by a keeper
    #[error("a monitor is started by a keeper, which gives it a control socket as standard input")]
    NoKeeper(#[source] io::Error),
    /// the control socket
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// the host's kernel
    #[error("the monitor cannot wait for events")]
    Wait(#[source] io::Error),
}

/// Runs the machine that the keeper on standard input asks for, until it or the keeper ends.
pub fn main() -> Result<(), MonitorError> {
    let entered_us = now_us();
    die_of_panics();
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    // A crash must not write the guest's memory to the host's disk.
    let _ = prctl::set_dumpable(false);
    raise_descriptor_limit();
    let control = Channel::from_stdin().map_err(MonitorError::NoKeeper)?;
    // The keeper reads its signals from a descriptor; a monitor is ended by them.
    SigSet::all().thread_unblock().map_err(|errno| MonitorError::Wait(errno.into()))?;
    let received = control.receive_with::<MonitorConfig>(MAX_DESCRIPTORS)?;
    let Some((config, descriptors)) = received else { return Ok(()) };
    let mut descriptors = Descriptors(descriptors.into_iter());
    let vsock = config.vsock.then(|| descriptors.next()).transpose()?;
    let listener = config.control.then(|| descriptors.next()).transpose()?;
    let running = match make(config.machine, vsock, &mut descriptors)?.and_then(Machine::start) {
        Ok(running) => running,
        Err(error) => {
            let (message, snapshot) = (chain(&error), error.is_of_a_snapshot());
            tell(&control, &MonitorEvent::Failed { message, snapshot });
            return Ok(());
        }
    };
    serve(&control, &running, listener, entered_us)?;
    running.stop();
    let console = running.console();
    let cause = cause(running.finish());
    let console = tail(&console.tail());
    tell(&control, &MonitorEvent::Ended { cause, console });
    Ok(())
}

/// What came with the configuration, one by one.
struct Descriptors(std::vec::IntoIter<OwnedFd>);

impl Descriptors {
    fn next(&mut self) -> Result<OwnedFd, ChannelError> {
        self.0.next().ok_or(ChannelError::Descriptors(0))
    }
}

/// The machine that is asked for; the outer error is that of a keeper that hands over too little.
fn make(
    start: Start,
    vsock: Option<OwnedFd>,
    descriptors: &mut Descriptors,
) -> Result<Result<Machine, MachineError>, ChannelError> {
    let vsock = vsock.map(|socket| Arc::new(UnixListener::from(socket)));
    let plug = |config: &mut Option<VsockConfig>| {
        if let Some(config) = config {
            config.listener = vsock;
        }
    };
    Ok(match start {
        Start::Boot(mut config) => {
            plug(&mut config.vsock);
            Machine::new(config)
        }
        Start::Restore(mut plugs, touched) => {
            plug(&mut plugs.vsock);
            let (state, memory) = (File::from(descriptors.next()?), descriptors.next()?.into());
            let known = (touched == TouchedPages::Known).then(|| descriptors.next()).transpose()?;
            Snapshot::read(&state, memory).map_err(MachineError::from).and_then(|mut snapshot| {
                match known {
                    Some(known) => snapshot.expect(&File::from(known)),
                    None if touched == TouchedPages::Watched => snapshot.pages = Pages::Watched,
                    None => {}
                }
                Machine::restore(snapshot, plugs)
            })
        }
    })
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
        if fds[1].any() == Some(true) && !server.attend(control)? {
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

/// Every vsock connection and disk is a descriptor; the usual soft limit is below what the guest is
/// allowed.
pub fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(DESCRIPTORS), hard);
    }
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
