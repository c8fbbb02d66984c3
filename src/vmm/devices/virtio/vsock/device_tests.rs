use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::*;
use crate::vmm::devices::virtio::testing::{
    DATA, Driver, interrupt, memory, raised, readable, writable,
};
use crate::vmm::devices::virtio::vsock::credit::BUFFER;
use crate::vmm::devices::virtio::vsock::muxer::MAX_CONNECTIONS;
use crate::vmm::devices::virtio::vsock::packet::{
    HEADER_SIZE, HOST_CID, Header, Op, Ports, Shutdown,
};

const CID: u64 = 3;
const RX_BUFFER: u32 = 4096;
/// Where packets of the guest are built.
const TX_AT: u64 = 0x20_0000;
/// The guest's receive buffer for each connection.
const GUEST_BUFFER: u32 = 64 * 1024;

/// A guest's driver and the device.
struct Guest {
    vsock: Vsock,
    rx: Driver,
    tx: Driver,
    event: Driver,
    interrupt: Arc<Interrupt>,
    dir: TempDir,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = VsockConfig {
            guest_cid: CID,
            uds_path: dir.path().join("v"),
        };
        let memory = memory();
        let mut guest = Self {
            vsock: Vsock::new(&config).unwrap(),
            rx: Driver::new(&memory, 0, QUEUE_SIZES[0]),
            tx: Driver::new(&memory, 0x4000, QUEUE_SIZES[1]),
            event: Driver::new(&memory, 0x8000, QUEUE_SIZES[2]),
            interrupt: interrupt(),
            dir,
        };
        guest.activate();
        guest
    }

    /// A guest whose receive queue is full of buffers.
    fn with_room() -> Self {
        let mut guest = Self::new();
        guest.give(usize::from(QUEUE_SIZES[0]));
        guest
    }

    fn activate(&mut self) {
        let drivers = [&self.rx, &self.tx, &self.event];
        let activation = Activation {
            memory: self.rx.memory.clone(),
            queues: drivers.map(|driver| driver.queue(true)).into(),
            features: 0,
            interrupt: Arc::clone(&self.interrupt),
        };
        self.vsock.activate(activation).unwrap();
    }

    /// Offers receive buffers.
    fn give(&mut self, n: usize) {
        for _ in 0..n {
            let at = self.rx.next_head();
            self.rx.offer(&[writable(
                DATA + u64::from(at) * u64::from(RX_BUFFER),
                RX_BUFFER,
            )]);
        }
        self.vsock.process_rx();
    }

    /// Lets the device do all that it has to do.
    fn settle(&mut self) {
        loop {
            if has_events(&self.vsock) {
                self.vsock.process_backend();
            } else if self.vsock.rx_event().read().is_ok() {
                self.vsock.process_rx();
            } else if self.vsock.tx_event().read().is_ok() {
                self.vsock.process_tx();
            } else {
                return;
            }
        }
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.tx.write(TX_AT, bytes);
        self.tx
            .offer(&[readable(TX_AT, u32::try_from(bytes.len()).unwrap())]);
        self.vsock.process_tx();
        self.settle();
    }

    fn send(&mut self, ports: Ports, op: Op, change: impl FnOnce(&mut Header), payload: &[u8]) {
        let mut header = from_guest(ports, op);
        header.len = u32::try_from(payload.len()).unwrap();
        change(&mut header);
        self.send_raw(&[&header.encode(), payload].concat());
    }

    fn say(&mut self, ports: Ports, op: Op) {
        self.send(ports, op, |_| {}, &[]);
    }

    fn close(&mut self, ports: Ports, closed: Shutdown) {
        self.send(
            ports,
            Op::Shutdown,
            |header| header.flags = closed.flags(),
            &[],
        );
    }

    /// The packets that came, whose buffers are given back.
    fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.settle();
        let used = self.rx.used();
        let read = |(head, len): &(u16, u32)| {
            let at = DATA + u64::from(*head) * u64::from(RX_BUFFER);
            let bytes = self.rx.read(at, usize::try_from(*len).unwrap());
            let header = Header::decode(bytes.first_chunk().unwrap());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            assert_eq!(header.len as usize, bytes.len() - HEADER_LEN);
            (header, bytes[HEADER_LEN..].to_vec())
        };
        let packets = used.iter().map(read).collect();
        self.give(used.len());
        packets
    }

    fn ops(&mut self) -> Vec<Op> {
        self.packets()
            .iter()
            .map(|(header, _)| Op::try_from(header.op).unwrap())
            .collect()
    }

    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.dir.path().join("v")).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        client
    }

    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("v_{port}"))).unwrap()
    }

    /// A connection that a client made, accepted by the guest.
    fn called(&mut self) -> (Ports, UnixStream) {
        let mut client = self.client();
        client.write_all(b"CONNECT 52\n").unwrap();
        let packets = self.packets();
        let [(request, _)] = packets.as_slice() else {
            panic!("{packets:?}")
        };
        assert_eq!((request.op, request.dst_port), (Op::Request as u16, 52));
        let ports = Ports {
            host: request.src_port,
            guest: 52,
        };
        self.say(ports, Op::Response);
        let expected = format!("OK {}\n", ports.host);
        let mut line = vec![0; expected.len()];
        client.read_exact(&mut line).unwrap();
        assert_eq!(line, expected.as_bytes());
        (ports, client)
    }

    /// A connection that the guest made.
    fn connected(&mut self) -> (Ports, UnixStream) {
        let ports = Ports {
            host: 1024,
            guest: 70_000,
        };
        let listener = self.listen(ports.host);
        self.say(ports, Op::Request);
        assert_eq!(self.ops(), [Op::Response]);
        let (stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        (ports, stream)
    }
}

fn from_guest(ports: Ports, op: Op) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: ports.guest,
        dst_port: ports.host,
        socket_type: 1,
        op: op as u16,
        buf_alloc: GUEST_BUFFER,
        ..Header::default()
    }
}

fn has_events(device: &Vsock) -> bool {
    // SAFETY: the descriptor is open for as long as the device is.
    let fd = unsafe { BorrowedFd::borrow_raw(device.backend().as_raw_fd()) };
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn clients_reach_the_guest() {
    let mut guest = Guest::with_room();
    let (ports, mut client) = guest.called();
    client.write_all(b"to the guest").unwrap();
    let packets = guest.packets();
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].1, b"to the guest");
    guest.send(ports, Op::Data, |_| {}, b"to the host");
    let mut bytes = [0; 11];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"to the host");
}

#[test]
fn bytes_behind_the_handshake_are_not_lost() {
    let mut guest = Guest::with_room();
    let mut client = guest.client();
    client.write_all(b"CONNECT 5").unwrap();
    assert!(guest.packets().is_empty());
    client.write_all(b"2\nfirst").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let (request, _) = guest.packets()[0];
    let ports = Ports {
        host: request.src_port,
        guest: 52,
    };
    guest.say(ports, Op::Response);
    let packets = guest.packets();
    assert_eq!(packets[0].1, b"first");
    assert_eq!(packets[1].0.op, Op::Shutdown as u16);
    assert_eq!(packets[1].0.flags, Shutdown::SEND.flags());
}

#[test]
fn a_call_that_nobody_takes_closes_the_client() {
    let mut guest = Guest::with_room();
    let mut client = guest.client();
    client.write_all(b"CONNECT 52\n").unwrap();
    let (request, _) = guest.packets()[0];
    guest.say(
        Ports {
            host: request.src_port,
            guest: 52,
        },
        Op::Reset,
    );
    assert_eq!(read_to_end(&mut client), b"");
    assert!(guest.packets().is_empty());

    let mut nonsense = guest.client();
    nonsense.write_all(b"GET / HTTP/1.0\n").unwrap();
    guest.settle();
    let error = nonsense.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_hangs_up_is_not_answered() {
    let mut guest = Guest::with_room();
    let mut client = guest.client();
    client.write_all(b"CONNECT 52\n").unwrap();
    assert_eq!(guest.ops(), [Op::Request]);
    drop(client);
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn the_guest_reaches_listeners_only() {
    let mut guest = Guest::with_room();
    let ports = Ports { host: 9, guest: 1 };
    guest.say(ports, Op::Request);
    assert_eq!(guest.ops(), [Op::Reset]);
    let (ports, mut stream) = guest.connected();
    guest.send(ports, Op::Data, |_| {}, b"hello");
    guest.close(ports, Shutdown::BOTH);
    assert_eq!(guest.ops(), [Op::Reset]);
    assert_eq!(read_to_end(&mut stream), b"hello");
    assert_eq!(guest.vsock.metrics().guest_connects_refused.get(), 1);
}

#[test]
fn a_slow_client_gets_everything_and_the_guest_keeps_to_its_credit() {
    let mut guest = Guest::with_room();
    let (ports, mut stream) = guest.connected();
    let sent = noise(4 << 20);
    let mut rest = sent.as_slice();
    let mut got: Vec<u8> = Vec::new();
    let mut credit = BUFFER as usize;
    let mut told = 0u32;
    stream.set_nonblocking(true).unwrap();
    let mut chunk = vec![0; 10_000];
    while !rest.is_empty() {
        let n = credit.min(rest.len()).min(60_000);
        guest.send(ports, Op::Data, |_| {}, &rest[..n]);
        rest = &rest[n..];
        credit -= n;
        if let Ok(n) = stream.read(&mut chunk) {
            got.extend(&chunk[..n]);
        }
        for (header, _) in guest.packets() {
            assert_eq!(header.op, Op::CreditUpdate as u16);
            credit += header.fwd_cnt.wrapping_sub(told) as usize;
            told = header.fwd_cnt;
        }
    }
    // The guest goes away; what the client has not read yet is not lost.
    guest.say(ports, Op::Reset);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => got.extend(&chunk[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        guest.settle();
    }
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(guest.vsock.metrics().closed.get(), 1);
    assert!(guest.packets().is_empty());
}

#[test]
fn a_slow_guest_gets_everything_and_is_not_flooded() {
    let mut guest = Guest::new();
    guest.give(3);
    let (ports, stream) = guest.connected();
    let sent = noise(2 << 20);
    let expected = sent.clone();
    let writer = std::thread::spawn(move || {
        (&stream).write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream
    });
    let mut got: Vec<u8> = Vec::new();
    let mut read = 0u32;
    'packets: loop {
        for (header, payload) in guest.packets() {
            got.extend(&payload);
            assert!(got.len() - read as usize <= GUEST_BUFFER as usize);
            match Op::try_from(header.op).unwrap() {
                Op::Data => {}
                Op::CreditRequest => {
                    read = u32::try_from(got.len()).unwrap();
                    guest.send(ports, Op::CreditUpdate, |header| header.fwd_cnt = read, &[]);
                }
                Op::Shutdown => break 'packets,
                op => panic!("{op:?}"),
            }
        }
    }
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    // The other direction is still open.
    let mut stream = writer.join().unwrap();
    guest.send(ports, Op::Data, |header| header.fwd_cnt = read, b"done");
    guest.close(ports, Shutdown::SEND);
    assert_eq!(read_to_end(&mut stream), b"done");
}

#[test]
fn without_room_in_the_guest_nothing_is_read_and_nothing_spins() {
    let mut guest = Guest::new();
    let ports = Ports {
        host: 1024,
        guest: 7,
    };
    let listener = guest.listen(ports.host);
    guest.say(ports, Op::Request);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"waits").unwrap();
    // Ends only if no event is left.
    guest.settle();
    assert!(guest.rx.used().is_empty());
    guest.give(1);
    assert_eq!(guest.ops(), [Op::Response]);
    guest.settle();
    let packets = guest.packets();
    assert_eq!(packets[0].1, b"waits");
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::with_room();
    let (busy, mut busy_client) = guest.called();
    let (other, mut other_client) = guest.called();
    busy_client.write_all(&noise(20_000)).unwrap();
    other_client.write_all(b"me too").unwrap();
    let ports: Vec<_> = guest
        .packets()
        .iter()
        .map(|(header, _)| header.src_port)
        .collect();
    let place = ports.iter().position(|port| *port == other.host).unwrap();
    assert!(place <= 1, "{ports:?}");
    assert!(ports.iter().filter(|port| **port == busy.host).count() >= 5);
}

#[test]
fn packets_may_be_in_any_number_of_pieces() {
    let mut guest = Guest::with_room();
    let (ports, mut stream) = guest.connected();
    let mut header = from_guest(ports, Op::Data);
    header.len = 6;
    guest
        .tx
        .write(TX_AT, &[&header.encode()[..], b"pieces, and more"].concat());
    let pieces = [(0u64, 10u32), (10, 33), (43, 3), (46, 14)];
    let chain = pieces.map(|(at, len)| readable(TX_AT + at, len));
    guest.tx.offer_indirect(TX_AT + 0x1_0000, &chain);
    guest.vsock.process_tx();
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pieces");
    assert_eq!(guest.vsock.metrics().malformed.get(), 0);
    stream.set_nonblocking(true).unwrap();
    assert!(
        stream.read(&mut bytes).is_err(),
        "what the header does not name is no payload"
    );
}

#[test]
fn packets_to_the_guest_may_be_in_pieces_too() {
    let mut guest = Guest::new();
    let room = [(0u64, 40u32), (100, 6), (200, 3), (300, 100)];
    guest
        .rx
        .offer(&room.map(|(at, len)| writable(DATA + at, len)));
    let mut client = guest.client();
    client.write_all(b"CONNECT 52\n").unwrap();
    guest.settle();
    assert_eq!(guest.rx.used(), [(0, 44)]);
    let bytes = [guest.rx.read(DATA, 40), guest.rx.read(DATA + 100, 4)].concat();
    let request = Header::decode(bytes.first_chunk().unwrap());
    guest
        .rx
        .offer(&room.map(|(at, len)| writable(DATA + at, len)));
    guest.say(
        Ports {
            host: request.src_port,
            guest: 52,
        },
        Op::Response,
    );
    client.write_all(b"pieces").unwrap();
    guest.settle();
    assert_eq!(guest.rx.used(), [(4, 50)]);
    let bytes = [
        guest.rx.read(DATA + 104, 2),
        guest.rx.read(DATA + 200, 3),
        guest.rx.read(DATA + 300, 1),
    ];
    assert_eq!(bytes.concat(), b"pieces");
}

#[test]
fn what_is_no_packet_is_dropped() {
    let mut guest = Guest::with_room();
    let metrics = guest.vsock.metrics();
    let ports = Ports { host: 1, guest: 2 };
    guest.send(ports, Op::Request, |header| header.src_cid = 4, &[]);
    guest.send(ports, Op::Request, |header| header.dst_cid = 3, &[]);
    guest.send(ports, Op::Request, |header| header.op = 0, &[]);
    guest.send(ports, Op::Request, |header| header.op = 8, &[]);
    guest.send_raw(&[0; HEADER_LEN - 1]);
    guest.tx.offer(&[writable(TX_AT, 100)]);
    guest.tx.offer(&[readable(u64::MAX, 100)]);
    guest.vsock.process_tx();
    assert!(guest.packets().is_empty());
    assert_eq!((metrics.wrong_cid.get(), metrics.wrong_op.get()), (2, 2));
    assert_eq!(metrics.malformed.get(), 3);
    assert_eq!(guest.tx.used().len(), 7);

    guest.send(ports, Op::Request, |header| header.socket_type = 2, &[]);
    assert_eq!(guest.ops(), [Op::Reset]);
    guest.send(ports, Op::Reset, |header| header.socket_type = 2, &[]);
    for op in [
        Op::Data,
        Op::Shutdown,
        Op::Response,
        Op::CreditRequest,
        Op::CreditUpdate,
    ] {
        guest.say(ports, op);
        assert_eq!(guest.ops(), [Op::Reset], "{op:?}");
    }
    guest.say(ports, Op::Reset);
    assert!(guest.packets().is_empty(), "a reset is never answered");
}

#[test]
fn guests_that_break_the_rules_lose_the_connection() {
    let breaks: [fn(&mut Guest, Ports); 4] = [
        |guest, ports| guest.say(ports, Op::Request),
        |guest, ports| guest.send(ports, Op::Data, |header| header.len = 1, &[]),
        |guest, ports| guest.send(ports, Op::CreditUpdate, |header| header.fwd_cnt = 1, &[]),
        |guest, ports| guest.send(ports, Op::Data, |_| {}, &noise(BUFFER as usize + 1)),
    ];
    for break_rule in breaks {
        let mut guest = Guest::with_room();
        let (ports, mut stream) = guest.connected();
        break_rule(&mut guest, ports);
        assert_eq!(guest.ops(), [Op::Reset]);
        assert_eq!(read_to_end(&mut stream), b"");
        guest.say(ports, Op::Data);
        assert_eq!(guest.ops(), [Op::Reset], "it is gone");
    }
}

#[test]
fn a_flood_of_requests_waits_for_its_answers_to_be_taken() {
    let mut guest = Guest::new();
    for round in 0..10 {
        for i in 0..u32::from(QUEUE_SIZES[1]) {
            let header = from_guest(
                Ports {
                    host: 1,
                    guest: round * 1000 + i,
                },
                Op::Request,
            );
            let at = TX_AT + u64::from(i) * 64;
            guest.tx.write(at, &header.encode());
            guest.tx.offer(&[readable(at, HEADER_SIZE)]);
        }
        guest.vsock.process_tx();
        guest.settle();
        if guest.tx.used().len() < usize::from(QUEUE_SIZES[1]) {
            assert_eq!(round, 2, "256 resets fit");
            guest.give(usize::from(QUEUE_SIZES[0]));
            let mut resets = 0;
            loop {
                let ops = guest.ops();
                assert!(ops.iter().all(|op| *op == Op::Reset));
                resets += ops.len();
                if ops.is_empty() {
                    break;
                }
            }
            assert_eq!(resets, 3 * usize::from(QUEUE_SIZES[1]));
            return;
        }
    }
    panic!("the resets are not bounded");
}

#[test]
fn connections_are_limited() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    let mut guest = Guest::with_room();
    let listener = guest.listen(1);
    let mut streams = Vec::new();
    for i in 0..u32::try_from(MAX_CONNECTIONS).unwrap() {
        guest.say(Ports { host: 1, guest: i }, Op::Request);
        streams.push(listener.accept().unwrap());
        assert_eq!(guest.ops(), [Op::Response]);
    }
    let last = Ports {
        host: 1,
        guest: 5000,
    };
    guest.say(last, Op::Request);
    assert_eq!(guest.ops(), [Op::Reset]);
    let mut client = guest.client();
    guest.settle();
    assert_eq!(read_to_end(&mut client), b"");
    guest.close(Ports { host: 1, guest: 0 }, Shutdown::BOTH);
    assert_eq!(guest.ops(), [Op::Reset]);
    guest.say(last, Op::Request);
    assert_eq!(guest.ops(), [Op::Response]);
}

#[test]
fn a_client_that_is_gone_is_announced() {
    let mut guest = Guest::with_room();
    let (ports, mut client) = guest.called();
    client.write_all(b"bye").unwrap();
    guest.send(ports, Op::Data, |_| {}, b"unread");
    drop(client);
    let packets = guest.packets();
    let data: Vec<u8> = packets
        .iter()
        .flat_map(|(_, payload)| payload.clone())
        .collect();
    assert_eq!(data, b"bye");
    assert_eq!(packets.last().unwrap().0.flags, Shutdown::BOTH.flags());
    guest.send(ports, Op::Data, |header| header.fwd_cnt = 3, b"for nobody");
    assert!(guest.packets().is_empty());
    guest.close(ports, Shutdown::BOTH);
    assert_eq!(guest.ops(), [Op::Reset]);
}

#[test]
fn a_reset_closes_everything_and_the_next_driver_starts_anew() {
    let mut guest = Guest::with_room();
    let (_, mut client) = guest.called();
    guest.vsock.reset();
    assert_eq!(read_to_end(&mut client), b"");
    let mut early = guest.client();
    early.write_all(b"CONNECT 52\n").unwrap();
    guest.settle();
    guest.rx = Driver::new(&guest.rx.memory, 0, QUEUE_SIZES[0]);
    guest.tx = Driver::new(&guest.tx.memory, 0x4000, QUEUE_SIZES[1]);
    for driver in [&guest.rx, &guest.tx] {
        driver.set_available(0);
        driver.write(driver.used_ring(), &[0; 4]);
    }
    guest.activate();
    guest.give(10);
    assert_eq!(guest.ops(), [Op::Request], "who was early is let in now");
}

#[test]
fn broken_rings_stop_the_device() {
    let mut guest = Guest::with_room();
    let (_, mut client) = guest.called();
    guest.tx.set_available(1000);
    guest.vsock.process_tx();
    assert_eq!(guest.vsock.metrics().stopped.get(), 1);
    assert!(guest.interrupt.waits_for_reset());
    assert_eq!(read_to_end(&mut client), b"");
    guest.vsock.process_rx();
}

#[test]
fn one_interrupt_tells_of_many_packets() {
    let mut guest = Guest::with_room();
    let (_, mut client) = guest.called();
    guest.rx.set_used_event(guest.rx.seen());
    raised(&guest.interrupt);
    client.write_all(&noise(30_000)).unwrap();
    assert!(guest.packets().len() >= 8);
    assert_eq!(raised(&guest.interrupt), 1);
}

#[test]
fn the_guest_hears_of_a_transport_reset_when_it_has_a_buffer() {
    let mut guest = Guest::new();
    guest.vsock.transport_reset();
    assert!(guest.event.used().is_empty());
    guest.event.write(DATA, &[0xff; 4]);
    guest.event.offer(&[writable(DATA, 4)]);
    guest.vsock.process_event_queue();
    assert_eq!(guest.event.used(), [(0, 4)]);
    assert_eq!(guest.event.read(DATA, 4), [0; 4]);
    guest.event.offer(&[writable(DATA, 4)]);
    guest.vsock.process_event_queue();
    assert!(guest.event.used().is_empty(), "once");
}

#[test]
fn context_ids_are_checked_and_told() {
    let dir = tempfile::tempdir().unwrap();
    for guest_cid in [0, 2, u64::from(u32::MAX), 1 << 32] {
        let config = VsockConfig {
            guest_cid,
            uds_path: dir.path().join("v"),
        };
        assert!(matches!(Vsock::new(&config), Err(VsockError::Cid(_))));
    }
    let config = VsockConfig {
        guest_cid: 0x1234_5678,
        uds_path: dir.path().join("v"),
    };
    let vsock = Vsock::new(&config).unwrap();
    let mut bytes = [0xff; 10];
    vsock.read_config(0, &mut bytes);
    assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn all_events_come_through_the_event_manager() {
    let mut guest = Guest::with_room();
    guest.settle();
    let shared = std::sync::Mutex::new(guest.vsock);
    let shared: Arc<std::sync::Mutex<dyn MutEventSubscriber>> = Arc::new(shared);
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(shared);
    let mut client = UnixStream::connect(guest.dir.path().join("v")).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    while guest.rx.used().is_empty() {
        assert!(manager.run_with_timeout(10_000).unwrap() > 0);
    }
}
