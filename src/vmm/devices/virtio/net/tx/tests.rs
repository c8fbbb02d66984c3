use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use proptest::prelude::*;

use super::*;
use crate::vmm::devices::virtio::net::backend::Tap;
use crate::vmm::devices::virtio::testing::{
    DATA, Driver, interrupt, memory, raised, readable, writable,
};
use crate::vmm::rate::{RateLimiter, TokenBucket};

/// A transmit queue on one end of a packet socket, which keeps frames apart like a tap does.
struct Machine {
    tx: Tx,
    driver: Driver,
    interrupt: Arc<Interrupt>,
    metrics: NetMetrics,
    tap: Backend,
    limiter: Limiter,
    wire: OwnedFd,
}

fn machine(size: u16) -> Machine {
    let memory = memory();
    let driver = Driver::new(&memory, 0, size);
    let ring = Ring::new(driver.queue(true), memory.clone());
    let (tap, wire) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    Machine {
        tx: Tx::new(ring, Buffers::new(&memory), Features::offered(1)),
        driver,
        interrupt: interrupt(),
        metrics: NetMetrics::default(),
        tap: Backend::Tap(Tap::new(tap.into())),
        limiter: Limiter::default(),
        wire,
    }
}

impl Machine {
    fn transmit(&mut self) -> Sent {
        let tap = Some(&mut self.tap);
        self.tx.transmit(tap, &mut self.limiter, &self.interrupt, &self.metrics).unwrap()
    }

    fn next_on_wire(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 0x1_2000];
        match recv(self.wire.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(len) => {
                frame.truncate(len);
                Some(frame)
            }
            Err(Errno::EAGAIN) => None,
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn frames_are_sent_whole_with_their_header() {
    let mut m = machine(16);
    let bytes: Vec<u8> = (0..100).collect();
    m.driver.write(DATA, &bytes);
    m.driver.write(DATA, &[1, 1, 9, 9]);
    m.driver.offer(&[readable(DATA, 5), readable(DATA + 5, 20), readable(DATA + 25, 75)]);
    m.driver.offer(&[readable(DATA, 26)]);
    assert_eq!(m.transmit(), Sent::All);
    let frame = m.next_on_wire().unwrap();
    assert_eq!(frame[..4], [1, 1, 9, 9]);
    assert_eq!(frame[4..], bytes[4..]);
    assert_eq!(m.next_on_wire().unwrap().len(), 26);
    assert!(m.next_on_wire().is_none());
    assert_eq!(m.driver.used(), [(0, 0), (3, 0)]);
    assert_eq!(raised(&m.interrupt), 1);
    assert_eq!((m.metrics.tx_frames.get(), m.metrics.tx_bytes.get()), (2, 126));
}

#[test]
fn bad_frames_are_dropped_and_come_back() {
    let mut m = machine(16);
    let header = |at: u64, flags: u8, gso: u8| m.driver.write(at, &[flags, gso]);
    header(DATA, 0, 0);
    header(DATA + 0x100, 0, 1);
    header(DATA + 0x200, 1, 3);
    m.driver.offer(&[readable(DATA, 25)]);
    m.driver.offer(&[readable(DATA, 3)]);
    m.driver.offer(&[readable(DATA, 12 + 65535 + 19)]);
    m.driver.offer(&[readable(DATA + 0x100, 100)]);
    m.driver.offer(&[readable(DATA + 0x200, 100)]);
    m.driver.offer(&[writable(DATA, 100)]);
    m.driver.offer(&[readable(u64::MAX, 100)]);
    m.driver.offer(&[readable(DATA, 12 + 65535 + 18)]);
    assert_eq!(m.transmit(), Sent::All);
    assert_eq!(m.next_on_wire().unwrap().len(), 12 + 65535 + 18);
    assert!(m.next_on_wire().is_none());
    assert_eq!(m.driver.used().len(), 8);
    assert_eq!(m.metrics.tx_bad_length.get(), 3);
    assert_eq!(m.metrics.tx_bad_header.get(), 2);
    assert_eq!(m.metrics.malformed.get(), 2);
    assert_eq!(m.metrics.tx_frames.get(), 1);
}

#[test]
fn a_full_tap_holds_frames_back_and_loses_none() {
    let mut m = machine(256);
    for i in 0..200u64 {
        m.driver.write(DATA + i * 0x1000 + 12, &i.to_le_bytes());
        m.driver.offer(&[readable(DATA + i * 0x1000, 0x1000)]);
    }
    let mut seen = 0u64;
    let mut blocked = 0;
    while m.transmit() == Sent::Full {
        blocked += 1;
        // Some room, and the rest stays where it is.
        for _ in 0..10 {
            let Some(frame) = m.next_on_wire() else { break };
            assert_eq!(frame[12..20], seen.to_le_bytes());
            seen += 1;
        }
    }
    assert!(blocked > 2, "{blocked}");
    while let Some(frame) = m.next_on_wire() {
        assert_eq!(frame[12..20], seen.to_le_bytes());
        seen += 1;
    }
    assert_eq!(seen, 200);
    assert_eq!(m.driver.used().len(), 200);
    assert_eq!(m.metrics.tx_blocked.get(), blocked);
}

#[test]
fn a_tap_that_fails_loses_frames_and_nothing_else() {
    let mut m = machine(16);
    let (_, gone) = socketpair(
        AddressFamily::Unix,
        SockType::Datagram,
        None,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    m.tap = Backend::Tap(Tap::new(gone.into()));
    m.driver.offer(&[readable(DATA, 100)]);
    assert_eq!(m.transmit(), Sent::All);
    assert_eq!(m.driver.used(), [(0, 0)]);
    assert_eq!(m.metrics.tx_host_errors.get(), 1);
}

#[test]
fn frames_wait_for_the_rate_limit_and_stay_in_the_queue() {
    let mut m = machine(16);
    for _ in 0..3 {
        m.driver.offer(&[readable(DATA, 1012)]);
    }
    let bytes = TokenBucket { size: 1500, one_time_burst: 0, refill_time: 1_000_000 };
    m.limiter = Limiter::new(RateLimiter { bandwidth: Some(bytes), ops: None });
    assert!(matches!(m.transmit(), Sent::Limited(wait) if wait > Duration::from_secs(100)));
    assert_eq!(m.driver.used(), [(0, 0), (1, 0)]);
    assert_eq!(m.metrics.tx_throttled.get(), 1);
    // Without anything to send to, nothing is limited.
    let sent = m.tx.transmit(None, &mut m.limiter, &m.interrupt, &m.metrics).unwrap();
    assert_eq!(sent, Sent::All);
    assert_eq!(m.driver.used(), [(2, 0)]);
}

proptest! {
    /// Whatever the header and framing: each chain comes back, and is counted once.
    #[test]
    fn hostile_frames(
        frames in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 12), prop::collection::vec(0..400u32, 1..4), any::<bool>()),
            1..20,
        ),
    ) {
        let mut m = machine(256);
        let mut at = DATA;
        for (header, lens, last_writable) in &frames {
            m.driver.write(at, header);
            let mut chain: Vec<_> = lens.iter().map(|&len| {
                let buffer = readable(at, len);
                at += u64::from(len);
                buffer
            }).collect();
            if *last_writable && let Some(last) = chain.last_mut() {
                last.writable = true;
            }
            m.driver.offer(&chain);
        }
        prop_assert_eq!(m.transmit(), Sent::All);
        prop_assert_eq!(m.driver.used().len(), frames.len());
        let metrics = &m.metrics;
        let sum = metrics.tx_frames.get()
            + metrics.tx_bad_length.get()
            + metrics.tx_bad_header.get()
            + metrics.malformed.get();
        prop_assert_eq!(sum, u64::try_from(frames.len()).unwrap());
        let mut sent = 0;
        while m.next_on_wire().is_some() {
            sent += 1;
        }
        prop_assert_eq!(sent, metrics.tx_frames.get());
    }
}
