use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use proptest::prelude::*;
use std::os::fd::AsRawFd;

use super::*;
use crate::vmm::devices::virtio::net::backend::Tap;
use crate::vmm::devices::virtio::testing::{
    Buffer, DATA, Driver, interrupt, memory, raised, readable, writable,
};
use crate::vmm::rate::{RateLimiter, TokenBucket};

/// A receive queue on one end of a packet socket, which keeps frames apart like a tap does.
struct Machine {
    rx: Rx,
    driver: Driver,
    interrupt: Arc<Interrupt>,
    metrics: NetMetrics,
    tap: Backend,
    limiter: Limiter,
    wire: OwnedFd,
}

const MERGEABLE: Features = Features(1 << VIRTIO_NET_F_MRG_RXBUF);

fn machine(features: Features, size: u16) -> Machine {
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
        rx: Rx::new(ring, Buffers::new(&memory), features),
        driver,
        interrupt: interrupt(),
        metrics: NetMetrics::default(),
        tap: Backend::Tap(Tap::new(tap.into())),
        limiter: Limiter::default(),
        wire,
    }
}

impl Machine {
    /// Puts a frame on the wire, its header included, and returns it.
    fn frame(&self, len: usize, fill: u8) -> Vec<u8> {
        let mut frame: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i.to_le_bytes()[0])).collect();
        frame[..header::LEN].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]);
        assert_eq!(send(self.wire.as_raw_fd(), &frame, MsgFlags::empty()).unwrap(), len);
        frame
    }

    fn receive(&mut self) -> Received {
        self.rx.receive(&mut self.tap, &mut self.limiter, &self.interrupt, &self.metrics).unwrap()
    }

    fn offer(&mut self, count: u64, from: u64, len: u32) {
        for i in 0..count {
            let stride = u64::from(len).next_multiple_of(16);
            self.driver.offer(&[writable(DATA + (from + i) * stride, len)]);
        }
    }
}

/// The frame as the guest has it: with the number of buffers in its header.
fn delivered(mut frame: Vec<u8>, buffers: u16) -> Vec<u8> {
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

#[test]
fn a_frame_takes_the_buffers_that_it_needs() {
    let mut m = machine(MERGEABLE, 256);
    m.offer(100, 0, 1024);
    let long = m.frame(2500, 1);
    let exact = m.frame(2048, 2);
    let short = m.frame(60, 3);
    assert_eq!(m.receive(), Received::Nothing);
    assert_eq!(m.driver.used(), [(0, 1024), (1, 1024), (2, 452), (3, 1024), (4, 1024), (5, 60)]);
    assert_eq!(m.driver.read(DATA, 2500), delivered(long, 3));
    assert_eq!(m.driver.read(DATA + 3 * 1024, 2048), delivered(exact, 2));
    assert_eq!(m.driver.read(DATA + 5 * 1024, 60), delivered(short, 1));
    assert_eq!(raised(&m.interrupt), 1);
    assert_eq!((m.metrics.rx_frames.get(), m.metrics.rx_bytes.get()), (3, 4608));
}

#[test]
fn the_longest_frame_fits() {
    let mut m = machine(MERGEABLE, 256);
    m.offer(100, 0, 1536);
    let longest = header::LEN + header::MAX_FRAME;
    let frame = m.frame(longest, 9);
    assert_eq!(m.receive(), Received::Nothing);
    let used = m.driver.used();
    assert_eq!(used.len(), longest.div_ceil(1536));
    assert_eq!(m.driver.read(DATA, longest), delivered(frame, 43));
}

#[test]
fn frames_wait_for_buffers_and_nothing_spins() {
    let mut m = machine(MERGEABLE, 256);
    let frame = m.frame(100, 1);
    assert_eq!(m.receive(), Received::NoBuffers);
    m.offer(10, 0, 1536);
    assert_eq!(m.receive(), Received::NoBuffers, "not enough for the longest frame");
    assert_eq!(m.driver.used(), []);
    m.offer(40, 10, 1536);
    assert_eq!(m.receive(), Received::Nothing);
    assert_eq!(m.driver.used(), [(0, 100)]);
    assert_eq!(m.driver.read(DATA, 100), delivered(frame, 1));
    assert_eq!(m.metrics.rx_no_buffers.get(), 2);
}

#[test]
fn a_small_ring_that_is_full_is_all_there_will_be() {
    let mut m = machine(MERGEABLE, 4);
    m.offer(4, 0, 1536);
    let frame = m.frame(1600, 1);
    m.frame(1536 * 4, 1);
    m.frame(1536 * 4 + 1, 1);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used(), [(0, 1536), (1, 64)]);
    assert_eq!(m.driver.read(DATA, 1600), delivered(frame, 2));
    // The ring wraps around: the two buffers that are still gathered, then the new ones.
    m.driver.offer(&[writable(DATA + 0x8000, 1536)]);
    m.driver.offer(&[writable(DATA + 0x9000, 1536)]);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used(), [(2, 1536), (3, 1536), (0, 1536), (1, 1536)]);
    // What is longer than the ring is dropped, with nothing used.
    m.offer(4, 0, 1536);
    assert_eq!(m.receive(), Received::Nothing);
    assert_eq!(m.driver.used(), []);
    assert_eq!(m.metrics.rx_oversize.get(), 1);
}

#[test]
fn without_mergeable_buffers_a_frame_has_one_chain() {
    let mut m = machine(Features(0), 16);
    m.driver.offer(&[writable(DATA, 12), writable(DATA + 0x100, 1514)]);
    m.driver.offer(&[writable(DATA + 0x1000, 12), writable(DATA + 0x2000, 1514)]);
    let first = m.frame(1526, 1);
    m.frame(1527, 2);
    let second = m.frame(80, 3);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used(), [(0, 1526), (2, 80)]);
    let first = delivered(first, 1);
    assert_eq!(m.driver.read(DATA, 12), first[..12]);
    assert_eq!(m.driver.read(DATA + 0x100, 1514), first[12..]);
    assert_eq!(m.driver.read(DATA + 0x2000, 68), second[12..]);
    assert_eq!(m.metrics.rx_oversize.get(), 1);
}

#[test]
fn runts_are_dropped() {
    let mut m = machine(Features(0), 16);
    m.offer(1, 0, 2048);
    send(m.wire.as_raw_fd(), &[0; 25], MsgFlags::empty()).unwrap();
    m.frame(26, 0);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used(), [(0, 26)]);
    assert_eq!(m.metrics.rx_runts.get(), 1);
}

#[test]
fn the_number_of_buffers_may_be_spread_over_them() {
    let mut m = machine(MERGEABLE, 64);
    for i in 0..64 {
        m.driver.offer(&[writable(DATA + i, 1)]);
    }
    let frame = m.frame(64, 1);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used().len(), 64);
    assert_eq!(m.driver.read(DATA, 64), delivered(frame, 64));
}

#[test]
fn chains_that_are_no_buffers_come_back() {
    let mut m = machine(Features(0), 16);
    m.driver.offer(&[readable(DATA, 100)]);
    m.driver.offer(&[writable(DATA, 0)]);
    m.driver.offer(&[writable(DATA, 100)]);
    m.frame(60, 1);
    assert_eq!(m.receive(), Received::NoBuffers);
    assert_eq!(m.driver.used(), [(0, 0), (1, 0), (2, 60)]);
    assert_eq!(m.metrics.malformed.get(), 2);
}

#[test]
fn a_closed_wire_is_quiet() {
    let mut m = machine(Features(0), 16);
    m.offer(1, 0, 2048);
    m.wire =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap().0;
    assert_eq!(
        m.receive(),
        Received::More,
        "a packet socket's end is packets without bytes; a tap has none"
    );
}

#[test]
fn frames_wait_for_the_rate_limit_and_none_is_lost() {
    let mut m = machine(MERGEABLE, 256);
    m.offer(200, 0, 1024);
    let two = TokenBucket { size: 2, one_time_burst: 1, refill_time: 1_000_000 };
    m.limiter = Limiter::new(RateLimiter { bandwidth: None, ops: Some(two) });
    let frames: Vec<_> = (0..5).map(|i| m.frame(100, i)).collect();
    let Received::Limited(wait) = m.receive() else { panic!("not limited") };
    assert!(wait > Duration::from_secs(100), "{wait:?}");
    assert_eq!(m.driver.used().len(), 3);
    assert_eq!(m.metrics.rx_throttled.get(), 1);
    m.limiter = Limiter::default();
    assert_eq!(m.receive(), Received::Nothing);
    assert_eq!(m.driver.used().len(), 2);
    assert_eq!(m.driver.read(DATA + 4 * 1024, 100), delivered(frames[4].clone(), 1));
    // Of bytes the frame's own count, and what is over is a debt.
    let bytes = TokenBucket { size: 88, one_time_burst: 0, refill_time: 1_000_000 };
    m.limiter = Limiter::new(RateLimiter { bandwidth: Some(bytes), ops: None });
    m.frame(100, 1);
    m.frame(100, 1);
    assert!(matches!(m.receive(), Received::Limited(_)));
    assert_eq!(m.driver.used().len(), 1);
}

proptest! {
    /// Whatever buffers are offered, frames that are given to the guest are whole and in order,
    /// and every chain comes back once.
    #[test]
    fn frames_are_never_torn(
        buffers in prop::collection::vec(1..3000u32, 1..32),
        frames in prop::collection::vec((26..4000usize, any::<u8>()), 1..20),
        mergeable in any::<bool>(),
    ) {
        let features = if mergeable { MERGEABLE } else { Features(0) };
        // As many entries as there are buffers, or more.
        let mut m = machine(features, 32);
        let mut at = DATA;
        let mut offered: Vec<Buffer> = Vec::new();
        for len in buffers {
            offered.push(writable(at, len));
            m.driver.offer(&[writable(at, len)]);
            at += u64::from(len);
        }
        let sent: Vec<_> = frames.iter().map(|&(len, fill)| m.frame(len, fill)).collect();
        m.receive();
        let used = m.driver.used();
        let mut used = used.iter();
        let mut sent = sent.into_iter();
        let mut got = 0;
        while let Some(&(head, len)) = used.next() {
            let first = offered[usize::from(head)];
            prop_assert!(len <= first.len);
            let mut bytes = m.driver.read(first.address, usize::try_from(len).unwrap());
            // The header says how many more there are, if all of it is in what was used.
            let mut more = 1u16;
            while bytes.len() < 12 {
                let &(head, len) = used.next().unwrap();
                bytes.extend(m.driver.read(offered[usize::from(head)].address, usize::try_from(len).unwrap()));
                more += 1;
            }
            let count = u16::from_le_bytes([bytes[10], bytes[11]]);
            for _ in more..count {
                let &(head, len) = used.next().unwrap();
                bytes.extend(m.driver.read(offered[usize::from(head)].address, usize::try_from(len).unwrap()));
            }
            // Frames that did not fit were left out.
            let expected = sent.find(|frame| delivered(frame.clone(), count) == bytes);
            prop_assert!(expected.is_some());
            got += 1;
        }
        prop_assert_eq!(m.metrics.rx_frames.get(), got);
    }
}
