//! All connections of a device: which packet belongs to which, whose turn it is to send to the
//! guest, and what the sockets' events mean.
//!
//! Everything that has a descriptor is watched by one epoll, edge-triggered: an edge sets a flag
//! that stays set until a call on the socket would block. So nothing is asked twice, and a socket
//! whose bytes the guest has no room for costs nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, End, Verdict};
use super::deadlines::Deadlines;
use super::error::VsockError;
use super::handshake::{self, Handshake, MAX_LINE};
use super::link::{Link, Room};
use super::listener::Listener;
use super::metrics::VsockMetrics;
use super::packet::{HEADER_LEN, HEADER_SIZE, HOST_CID, Header, Op, PORT_ANY, Ports, TYPE_STREAM};
use super::token::Token;
use crate::vmm::devices::virtio::buffers::Segments;

/// Most connections at a time, those that are being made included.
pub const MAX_CONNECTIONS: usize = 1024;

/// Resets that may wait for room in the receive queue before the guest's packets have to wait too.
/// The resets of connections that end otherwise, each at most once, come on top.
const MAX_RESETS: usize = 256;

/// First port of the host that a client's connection gets. Below are those that listen.
const FIRST_PORT: u32 = 1 << 30;

/// Events taken in at a time. What is left over is signalled again.
const EVENTS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    listener: Listener,
    epoll: Epoll,
    deadlines: Deadlines,
    links: HashMap<Ports, Link>,
    /// Links that may have something for the guest, each once, in the order of their turns.
    turns: VecDeque<Ports>,
    /// Connections that the guest is to forget.
    resets: VecDeque<Ports>,
    /// Clients that have not said yet which port they want.
    clients: HashMap<u32, UnixStream>,
    next_client: u32,
    next_port: u32,
    /// Clients may be waiting that could not be accepted for want of descriptors.
    accept_later: bool,
    metrics: Arc<VsockMetrics>,
}

impl Muxer {
    /// For the clients of `listener`; nobody is let in before [`Muxer::open`].
    pub fn new(
        guest_cid: u64,
        listener: Listener,
        metrics: Arc<VsockMetrics>,
    ) -> Result<Self, VsockError> {
        let host = |what| move |source| VsockError::Host { what, source };
        let muxer = Self {
            guest_cid,
            listener,
            epoll: Epoll::new().map_err(host("epoll"))?,
            deadlines: Deadlines::new().map_err(host("timer"))?,
            links: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            clients: HashMap::new(),
            next_client: 0,
            next_port: FIRST_PORT,
            accept_later: false,
            metrics,
        };
        muxer
            .watch(ControlOperation::Add, &muxer.deadlines, Token::Timer)
            .map_err(host("timer"))?;
        Ok(muxer)
    }

    /// Whether the guest may take a connection for alive: in another machine it is not.
    pub fn has_connections(&self) -> bool {
        !self.links.is_empty() || !self.resets.is_empty()
    }

    /// Port of the host that the next client's connection gets.
    pub fn next_port(&self) -> u32 {
        self.next_port
    }

    /// Goes on from this port.
    pub fn set_next_port(&mut self, port: u32) {
        self.next_port = port.clamp(FIRST_PORT, PORT_ANY - 1);
    }

    /// Lets clients in, those too that wait already.
    pub fn open(&mut self) -> io::Result<()> {
        self.watch(ControlOperation::Add, &self.listener, Token::Listener)
    }

    /// Closes all connections without a word to the guest, and lets nobody in.
    pub fn close(&mut self) {
        let fd = self.listener.as_raw_fd();
        // It is not watched if the device was not active.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        self.metrics.closed.add_bytes(self.links.len());
        self.links.clear();
        self.clients.clear();
        self.turns.clear();
        self.resets.clear();
        self.deadlines.clear();
        self.accept_later = false;
    }

    /// Whether a packet from the guest can be dealt with: its answer may need room.
    pub fn can_take_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// A packet from the guest: its header and what follows.
    pub fn packet(&mut self, packet: &mut Segments) {
        let mut bytes = [0; HEADER_LEN];
        if !packet.read(&mut bytes) {
            self.metrics.malformed.add(1);
            return;
        }
        let header = Header::decode(&bytes);
        self.metrics.packets_from_guest.add(1);
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            self.metrics.wrong_cid.add(1);
            return;
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let Ok(op) = Op::try_from(header.op) else {
            self.metrics.wrong_op.add(1);
            return;
        };
        if header.socket_type != TYPE_STREAM {
            // virtio 1.2, 5.10.6.4.2
            self.metrics.wrong_type.add(1);
            self.answer_with_reset(op, ports);
            return;
        }
        if op == Op::Data {
            let len = usize::try_from(header.len).unwrap_or(usize::MAX);
            if packet.len() < len {
                // Bytes that nobody has are missing from now on.
                self.metrics.malformed.add(1);
                self.forget(ports);
                self.answer_with_reset(op, ports);
                return;
            }
            packet.truncate(len);
        }
        self.dispatch(op, ports, &header, packet);
    }

    fn dispatch(&mut self, op: Op, ports: Ports, header: &Header, payload: &mut Segments) {
        let Some(link) = self.links.get_mut(&ports) else {
            if op == Op::Request {
                self.connect_to_host(ports, header);
            } else {
                self.metrics.unknown_connection.add(1);
                self.answer_with_reset(op, ports);
            }
            return;
        };
        match link.packet(op, header, payload) {
            Ok(verdict) => {
                match verdict {
                    Verdict::Accepted => link.greet(&handshake::accepted(ports.host)),
                    Verdict::Deliver | Verdict::Discard => {
                        self.metrics.bytes_from_guest.add(header.len.into());
                    }
                    Verdict::Refuse => self.answer_with_reset(op, ports),
                    Verdict::Done => {}
                }
                self.follow_up(ports);
            }
            Err(violation) => {
                if self.metrics.violations.add(1) == 0 {
                    log::warn!("vsock: guest port {}: {violation:?}", ports.guest);
                }
                self.forget(ports);
                self.answer_with_reset(op, ports);
            }
        }
    }

    /// Answers a packet with a reset, unless it is one itself.
    fn answer_with_reset(&mut self, op: Op, ports: Ports) {
        if op != Op::Reset {
            self.resets.push_back(ports);
        }
    }

    /// The guest wants to connect to a port of the host.
    fn connect_to_host(&mut self, ports: Ports, request: &Header) {
        let link = self.link_to_host(ports, request);
        let Some(link) = link.filter(|link| self.watch_link(link, ports).is_ok()) else {
            self.metrics.guest_connects_refused.add(1);
            self.resets.push_back(ports);
            return;
        };
        self.metrics.guest_connects.add(1);
        self.links.insert(ports, link);
        self.follow_up(ports);
    }

    fn link_to_host(&self, ports: Ports, request: &Header) -> Option<Link> {
        if self.is_full() || ports.host == PORT_ANY || ports.guest == PORT_ANY {
            return None;
        }
        let connection = Connection::from_guest(request).ok()?;
        let stream = self.listener.connect_to_port(ports.host).ok()?;
        Some(Link::new(connection, stream))
    }

    fn is_full(&self) -> bool {
        self.links.len() + self.clients.len() >= MAX_CONNECTIONS
    }

    /// Whether there is, or may be, a packet for the guest.
    pub fn has_output(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Puts the next packet for the guest into `room`. The packet's length, or `None` if there is
    /// no packet after all.
    pub fn fill(&mut self, room: &mut Room<'_>) -> Option<u32> {
        let len = self.fill_any(room)?;
        self.metrics.packets_to_guest.add(1);
        self.metrics.bytes_to_guest.add(u64::from(len.saturating_sub(HEADER_SIZE)));
        Some(len)
    }

    fn fill_any(&mut self, room: &mut Room<'_>) -> Option<u32> {
        if let Some(ports) = self.resets.pop_front() {
            let header = Header::to_guest(self.guest_cid, ports, Op::Reset);
            let written = room.header.write(&header.encode());
            debug_assert!(written, "there is always room for a header");
            return Some(HEADER_SIZE);
        }
        while let Some(ports) = self.turns.pop_front() {
            let Some(link) = self.links.get_mut(&ports) else {
                continue;
            };
            link.queued = false;
            let filled = link.fill(self.guest_cid, ports, room);
            self.follow_up(ports);
            if filled.is_some() {
                return filled;
            }
        }
        None
    }

    /// Does what a change of a link entails: its stream, its turn, its deadline, its end.
    fn follow_up(&mut self, ports: Ports) {
        let Some(link) = self.links.get_mut(&ports) else {
            return;
        };
        link.settle();
        if let Some(end) = link.connection.end() {
            self.forget(ports);
            if end == End::Reset {
                self.resets.push_back(ports);
            }
            return;
        }
        if !link.queued && link.connection.next().is_some() {
            link.queued = true;
            self.turns.push_back(ports);
        }
        let wait = link.connection.wait();
        if wait != link.deadline.map(|(wait, _)| wait) {
            let new = wait.map(|wait| (wait, Instant::now() + wait.limit()));
            let old = std::mem::replace(&mut link.deadline, new);
            if let Some((_, at)) = old {
                self.deadlines.remove(at, ports);
            }
            if let Some((_, at)) = new {
                let added = self.deadlines.add(at, ports);
                self.note(added);
            }
        }
    }

    /// Closes the stream of a connection that has ended.
    fn forget(&mut self, ports: Ports) {
        let Some(link) = self.links.remove(&ports) else {
            return;
        };
        self.metrics.closed.add(1);
        if link.queued {
            self.turns.retain(|other| *other != ports);
        }
        if let Some((_, at)) = link.deadline {
            self.deadlines.remove(at, ports);
        }
        drop(link);
        self.descriptor_is_free();
    }

    fn descriptor_is_free(&mut self) {
        if std::mem::take(&mut self.accept_later) {
            self.accept();
        }
    }

    /// Takes in what has happened to the sockets.
    pub fn process_events(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS];
        let count = match self.epoll.wait(0, &mut events) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.note(Err(error));
                }
                return;
            }
        };
        for event in events.iter().take(count) {
            match Token::from(event.data()) {
                Token::Listener => self.accept(),
                Token::Timer => self.time_is_up(),
                Token::Client(id) => self.client_ready(id),
                Token::Link(ports) => self.link_ready(ports, event.event_set()),
            }
        }
    }

    fn link_ready(&mut self, ports: Ports, events: EventSet) {
        // An event of a connection that has ended meanwhile.
        let Some(link) = self.links.get_mut(&ports) else {
            return;
        };
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            link.stream_hung_up();
        }
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            link.connection.stream_readable();
        }
        if events.contains(EventSet::OUT) {
            link.stream_writable();
        }
        self.follow_up(ports);
    }

    fn time_is_up(&mut self) {
        let now = Instant::now();
        while let Some(ports) = self.deadlines.expired(now) {
            if let Some(link) = self.links.get_mut(&ports) {
                self.metrics.timeouts.add(1);
                link.deadline = None;
                link.connection.time_is_up();
                self.follow_up(ports);
            }
        }
        let armed = self.deadlines.rearm();
        self.note(armed);
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(client) => self.add_client(client),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    // A client that is gone already is none of the others' business.
                    Some(libc::ECONNABORTED | libc::EINTR) => {}
                    _ => {
                        self.accept_later = true;
                        self.note(Err(error));
                        return;
                    }
                },
            }
        }
    }

    fn add_client(&mut self, client: UnixStream) {
        let id = self.next_client;
        let token = Token::Client(id);
        if self.is_full()
            || self.clients.contains_key(&id)
            || self.watch(ControlOperation::Add, &client, token).is_err()
        {
            self.metrics.clients_refused.add(1);
            return;
        }
        self.next_client = token.next_client();
        self.clients.insert(id, client);
    }

    /// A client has said something.
    fn client_ready(&mut self, id: u32) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let mut line = [0; MAX_LINE];
        let handshake = match recv(client.as_raw_fd(), &mut line, MsgFlags::MSG_PEEK) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return,
            Ok(0) | Err(_) => Handshake::Invalid,
            Ok(n) => handshake::parse(line.get(..n).unwrap_or_default()),
        };
        match handshake {
            Handshake::Incomplete => {}
            Handshake::Connect { port, len } => {
                let Some(client) = self.clients.remove(&id) else {
                    return;
                };
                if take_exactly(&client, line.get_mut(..len).unwrap_or_default()).is_ok() {
                    self.connect_to_guest(client, port);
                } else {
                    self.metrics.clients_refused.add(1);
                }
            }
            Handshake::Invalid => {
                self.metrics.clients_refused.add(1);
                self.clients.remove(&id);
                self.descriptor_is_free();
            }
        }
    }

    fn connect_to_guest(&mut self, client: UnixStream, guest: u32) {
        let ports = Ports { host: self.free_port(guest), guest };
        let link = Link::new(Connection::to_guest(), client);
        let token = Token::Link(ports);
        // Modifying also tells of what has happened to the socket before.
        if let Err(error) = self.watch(ControlOperation::Modify, link.stream(), token) {
            self.metrics.clients_refused.add(1);
            self.note(Err(error));
            return;
        }
        self.metrics.host_connects.add(1);
        self.links.insert(ports, link);
        self.follow_up(ports);
    }

    /// A port of the host that has no connection with this port of the guest. Ports are used in
    /// turn: one that was in use a moment ago may still mean something to the guest.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = match host + 1 {
                PORT_ANY => FIRST_PORT,
                next => next,
            };
            // There are more ports than connections.
            if !self.links.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn watch_link(&self, link: &Link, ports: Ports) -> io::Result<()> {
        self.watch(ControlOperation::Add, link.stream(), Token::Link(ports))
    }

    fn watch(
        &self,
        operation: ControlOperation,
        source: &impl AsRawFd,
        token: Token,
    ) -> io::Result<()> {
        let mut events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if matches!(token, Token::Link(_)) {
            events |= EventSet::OUT | EventSet::READ_HANG_UP;
        }
        self.epoll.ctl(operation, source.as_raw_fd(), EpollEvent::new(events, token.into()))
    }

    /// Notes a call of the host that should not have failed.
    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result
            && self.metrics.host_errors.add(1) == 0
        {
            log::warn!("vsock: {error}");
        }
    }
}

impl AsRawFd for Muxer {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// Takes bytes that are known to be there, and no more.
fn take_exactly(client: &UnixStream, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::read(client.as_fd(), bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes = bytes.get_mut(n..).unwrap_or_default(),
        }
    }
    Ok(())
}
