use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

use super::*;
use crate::vmm::devices::virtio::testing::{DATA, Driver, raised, writable};
use crate::vmm::devices::virtio::vsock::credit::BUFFER;
use crate::vmm::devices::virtio::vsock::packet::{Op, Ports, Shutdown};
use crate::vmm::devices::virtio::vsock::testing::{CID, GUEST_BUFFER, Guest, noise, read_to_end};

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
    let ports = Ports { host: request.src_port, guest: 52 };
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
    guest.say(Ports { host: request.src_port, guest: 52 }, Op::Reset);
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
    let ports = Ports { host: 1024, guest: 7 };
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
    let ports: Vec<_> = guest.packets().iter().map(|(header, _)| header.src_port).collect();
    let place = ports.iter().position(|port| *port == other.host).unwrap();
    assert!(place <= 1, "{ports:?}");
    assert!(ports.iter().filter(|port| **port == busy.host).count() >= 5);
}

#[test]
fn a_client_that_is_gone_is_announced() {
    let mut guest = Guest::with_room();
    let (ports, mut client) = guest.called();
    client.write_all(b"bye").unwrap();
    guest.send(ports, Op::Data, |_| {}, b"unread");
    drop(client);
    let packets = guest.packets();
    let data: Vec<u8> = packets.iter().flat_map(|(_, payload)| payload.clone()).collect();
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
fn a_restored_guest_hears_of_a_transport_reset_when_it_has_a_buffer() {
    let mut guest = Guest::new();
    assert_eq!(guest.vsock.save(), state(false));
    guest.vsock.reset();
    guest.vsock.restore(&state(true)).unwrap();
    guest.activate();
    guest.vsock.process_event_queue();
    assert!(guest.event.used().is_empty());
    guest.event.write(DATA, &[0xff; 4]);
    assert_eq!(guest.vsock.save(), state(true));
    guest.event.offer(&[writable(DATA, 4)]);
    guest.vsock.process_event_queue();
    assert_eq!(guest.event.used(), [(0, 4)]);
    assert_eq!(guest.event.read(DATA, 4), [0; 4]);
    guest.event.offer(&[writable(DATA, 4)]);
    guest.vsock.process_event_queue();
    assert!(guest.event.used().is_empty(), "once");
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

#[test]
fn clients_wait_until_the_guest_has_dealt_with_a_transport_reset() {
    let mut guest = Guest::new();
    guest.vsock.reset();
    guest.vsock.restore(&state(true)).unwrap();
    guest.activate();
    guest.event.offer(&[writable(DATA, 4)]);
    let mut client = UnixStream::connect(guest.dir.path().join("v")).unwrap();
    client.write_all(b"CONNECT 52\n").unwrap();
    guest.vsock.process_event_queue();
    guest.give(10);
    guest.settle();
    assert!(guest.ops().is_empty(), "it would be reset with all others");
    guest.event.offer(&[writable(DATA, 4)]);
    guest.vsock.process_event_queue();
    guest.settle();
    assert_eq!(guest.ops(), [Op::Request]);
}

/// The device's state in a snapshot.
fn state(connected: bool) -> DeviceState {
    DeviceState::Vsock { guest_cid: CID, connected, next_port: 1 << 30 }
}
