//! Guests that do what a correct driver does not, or does rarely.

use std::io::{Read, Write};

use super::credit::BUFFER;
use super::device::{QUEUE_SIZES, Vsock};
use super::error::VsockError;
use super::muxer::MAX_CONNECTIONS;
use super::packet::{HEADER_LEN, HEADER_SIZE, Header, Op, Ports, Shutdown};
use super::testing::{Guest, TX_AT, from_guest, noise, read_to_end};
use crate::vmm::config::VsockConfig;
use crate::vmm::devices::virtio::VirtioDevice;
use crate::vmm::devices::virtio::testing::{DATA, readable, writable};

#[test]
fn packets_may_be_in_any_number_of_pieces() {
    let mut guest = Guest::with_room();
    let (ports, mut stream) = guest.connected();
    let mut header = from_guest(ports, Op::Data);
    header.len = 6;
    guest.tx.write(TX_AT, &[&header.encode()[..], b"pieces, and more"].concat());
    let pieces = [(0u64, 10u32), (10, 33), (43, 3), (46, 14)];
    let chain = pieces.map(|(at, len)| readable(TX_AT + at, len));
    guest.tx.offer_indirect(TX_AT + 0x1_0000, &chain);
    guest.vsock.process_tx();
    let mut bytes = [0; 6];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pieces");
    assert_eq!(guest.vsock.metrics().malformed.get(), 0);
    stream.set_nonblocking(true).unwrap();
    assert!(stream.read(&mut bytes).is_err(), "what the header does not name is no payload");
}

#[test]
fn packets_to_the_guest_may_be_in_pieces_too() {
    let mut guest = Guest::new();
    let room = [(0u64, 40u32), (100, 6), (200, 3), (300, 100)];
    guest.rx.offer(&room.map(|(at, len)| writable(DATA + at, len)));
    let mut client = guest.client();
    client.write_all(b"CONNECT 52\n").unwrap();
    guest.settle();
    assert_eq!(guest.rx.used(), [(0, 44)]);
    let bytes = [guest.rx.read(DATA, 40), guest.rx.read(DATA + 100, 4)].concat();
    let request = Header::decode(bytes.first_chunk().unwrap());
    guest.rx.offer(&room.map(|(at, len)| writable(DATA + at, len)));
    guest.say(Ports { host: request.src_port, guest: 52 }, Op::Response);
    client.write_all(b"pieces").unwrap();
    guest.settle();
    assert_eq!(guest.rx.used(), [(4, 50)]);
    let bytes =
        [guest.rx.read(DATA + 104, 2), guest.rx.read(DATA + 200, 3), guest.rx.read(DATA + 300, 1)];
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
    for op in [Op::Data, Op::Shutdown, Op::Response, Op::CreditRequest, Op::CreditUpdate] {
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
            let header = from_guest(Ports { host: 1, guest: round * 1000 + i }, Op::Request);
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
    let last = Ports { host: 1, guest: 5000 };
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
fn context_ids_are_checked_and_told() {
    let dir = tempfile::tempdir().unwrap();
    for guest_cid in [0, 2, u64::from(u32::MAX), 1 << 32] {
        let config =
            VsockConfig { guest_cid, uds_path: dir.path().join("v"), listener: None, ports: None };
        assert!(matches!(Vsock::new(&config), Err(VsockError::Cid(_))));
    }
    let config = VsockConfig {
        guest_cid: 0x1234_5678,
        uds_path: dir.path().join("v"),
        listener: None,
        ports: None,
    };
    let vsock = Vsock::new(&config).unwrap();
    let mut bytes = [0xff; 10];
    vsock.read_config(0, &mut bytes);
    assert_eq!(bytes, [0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
}
