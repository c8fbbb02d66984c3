//! The control sockets of a running machine: whoever connects may ask for what [`MonitorRequest`]
//! has.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};

use super::channel::{Channel, ChannelError};
use super::control::{MonitorEvent, MonitorRequest, NicKind};
use crate::clock::micros;
use crate::report::chain;
use crate::vmm::devices::virtio::net::{MAX_PAIRS, Wire};
use crate::vmm::devices::virtio::{Place, Plug};
use crate::vmm::machine::{Paused, Running};

/// Most clients at a time; who comes then waits for one to go.
const MAX_CLIENTS: usize = 16;

/// Descriptors that come with a request for a snapshot: state and memory.
const SNAPSHOT_FILES: usize = 2;

/// Most that come with any request: a tap's queues.
const MOST_FILES: usize = MAX_PAIRS as usize;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Who has started the monitor.
    Keeper,
    /// Whoever has connected to the control socket.
    Other,
}

/// Makes a control socket at `path`, for its owner alone (by its folder).
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// Answers for one machine.
#[derive(Debug)]
pub struct Server<'a> {
    running: &'a Running,
    /// While it is paused.
    paused: Option<Paused<'a>>,
    entered_us: u64,
    listener: Option<OwnedFd>,
    clients: Vec<Channel>,
}

impl<'a> Server<'a> {
    /// For a machine whose process was entered at `entered_us`.
    pub fn new(running: &'a Running, listener: Option<OwnedFd>, entered_us: u64) -> Self {
        Self { running, paused: None, entered_us, listener, clients: Vec::new() }
    }

    /// What to wait for; then call [`Server::process`].
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = self.listener.iter().filter(|_| self.clients.len() < MAX_CLIENTS);
        listener.map(AsFd::as_fd).chain(self.clients.iter().map(AsFd::as_fd))
    }

    /// Takes in what has happened: new clients, requests, and clients that went.
    pub fn process(&mut self) {
        let mut clients = std::mem::take(&mut self.clients);
        // One that does not take its answer, or asks for nonsense, is done with.
        clients.retain(|client| matches!(self.attend(client, Asker::Other), Ok(true)));
        self.clients = clients;
        while self.clients.len() < MAX_CLIENTS
            && let Some(client) = self.accept()
        {
            self.clients.push(client);
        }
    }

    fn accept(&self) -> Option<Channel> {
        let listener = self.listener.as_ref()?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        loop {
            match accept4(listener.as_raw_fd(), flags) {
                Ok(fd) => {
                    // SAFETY: accept4 returned this descriptor just now and nothing else owns it.
                    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
                    return Some(Channel::from(socket));
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(_) => return None,
            }
        }
    }

    /// Answers a client's next request, if it has one: whether it is still there.
    pub fn attend(&mut self, client: &Channel, asker: Asker) -> Result<bool, ChannelError> {
        match client.receive_with(MOST_FILES) {
            Ok(Some((request, files))) => {
                let answer = self.answer(request, files, asker);
                client.send(&answer)?;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(ChannelError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn answer(
        &mut self,
        request: MonitorRequest,
        files: Vec<OwnedFd>,
        asker: Asker,
    ) -> MonitorEvent {
        let done = match request {
            MonitorRequest::Timings => {
                let first_run_us = self.running.first_run().map_or(0, micros);
                return MonitorEvent::Timings { entered_us: self.entered_us, first_run_us };
            }
            MonitorRequest::Metrics => {
                // A machine that is paused has its devices locked by this very thread.
                let counts = self.paused.as_ref().map(Paused::counts);
                let devices = counts.unwrap_or_else(|| self.running.counts());
                return MonitorEvent::Metrics { devices };
            }
            MonitorRequest::Pause => {
                self.paused.get_or_insert_with(|| self.running.pause());
                Ok(())
            }
            MonitorRequest::Resume => {
                self.paused = None;
                Ok(())
            }
            MonitorRequest::Touched => self.touched(files),
            MonitorRequest::Snapshot { checksum } => self.snapshot(files, checksum),
            _ if asker != Asker::Keeper => Err("only the sandbox's keeper may ask for that".into()),
            // The devices are locked by this very thread.
            _ if self.paused.is_some() => Err("the machine is paused".into()),
            MonitorRequest::PlugNet { slot, mac, backend, rx_rate_limiter, tx_rate_limiter } => {
                wire(backend, files).and_then(|wire| {
                    let net = Plug::Net { wire, mac, rx_rate_limiter, tx_rate_limiter };
                    self.plug(Place::Net(slot.into()), net)
                })
            }
            MonitorRequest::PlugDisk { slot, bytes, read_only, serial, rate_limiter } => {
                one("a disk", files).and_then(|file| {
                    let file = file.into();
                    let disk = Plug::Disk { file, bytes, read_only, serial, rate_limiter };
                    self.plug(Place::Disk(slot.into()), disk)
                })
            }
            MonitorRequest::UnplugNet { slot } => self.unplug(Place::Net(slot.into())),
            MonitorRequest::UnplugDisk { slot } => self.unplug(Place::Disk(slot.into())),
        };
        match done {
            Ok(()) => MonitorEvent::Done,
            Err(message) => MonitorEvent::Refused { message },
        }
    }

    fn plug(&self, place: Place, plug: Plug) -> Result<(), String> {
        self.running.plug(place, plug).map_err(|error| chain(&error))
    }

    fn unplug(&self, place: Place) -> Result<(), String> {
        self.running.unplug(place).map_err(|error| chain(&error))
    }

    fn touched(&self, files: Vec<OwnedFd>) -> Result<(), String> {
        let [file]: [OwnedFd; 1] =
            files.try_into().map_err(|_| "what was touched takes one file".to_owned())?;
        let touched = self.running.touched();
        touched.and_then(|touched| touched.write(&File::from(file))).map_err(|error| chain(&error))
    }

    fn snapshot(&self, files: Vec<OwnedFd>, checksum: bool) -> Result<(), String> {
        let [state, memory]: [OwnedFd; SNAPSHOT_FILES] =
            files.try_into().map_err(|_| "a snapshot takes two files".to_owned())?;
        let (state, memory) = (File::from(state), File::from(memory));
        let for_now = self.paused.is_none().then(|| self.running.pause());
        let Some(paused) = self.paused.as_ref().or(for_now.as_ref()) else {
            return Ok(());
        };
        paused.save(&state, &memory, checksum).map_err(|error| chain(&error))
    }
}

/// The one descriptor of what is plugged in.
fn one(what: &str, files: Vec<OwnedFd>) -> Result<OwnedFd, String> {
    let [file]: [OwnedFd; 1] =
        files.try_into().map_err(|_| format!("{what} comes with one descriptor"))?;
    Ok(file)
}

/// Where the frames of a network interface go.
fn wire(kind: NicKind, files: Vec<OwnedFd>) -> Result<Wire, String> {
    match kind {
        NicKind::Tap if files.is_empty() => Err("a tap comes with its queues".into()),
        NicKind::Tap => Ok(Wire::Tap(files.into_iter().map(File::from).collect())),
        NicKind::Stream => one("a socket for frames", files).map(Wire::Stream),
    }
}
