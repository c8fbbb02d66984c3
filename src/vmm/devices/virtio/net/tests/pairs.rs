//! Several pairs of queues, and links of other kinds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ};
use virtio_queue::{Queue, QueueT};

use super::*;
use crate::vmm::devices::virtio::DeviceState;
use crate::vmm::rate::TokenBucket;

const PAIRS: u8 = 3;

/// A device with three pairs of queues, and the driver's side of all of them.
struct Several {
    events: EventManager<Arc<Mutex<Net>>>,
    net: Arc<Mutex<Net>>,
    queues: Vec<Driver>,
    interrupt: Arc<Interrupt>,
}

fn several(config: &NetConfig) -> Several {
    let net = Arc::new(Mutex::new(Net::new(config, PAIRS).unwrap()));
    let mut events = EventManager::new().unwrap();
    events.add_subscriber(Arc::clone(&net));
    let memory = memory();
    let count = net.lock().unwrap().queue_sizes().len();
    let queues = (0u64..).take(count).map(|i| Driver::new(&memory, i * 0x1800, 128)).collect();
    Several { events, net, queues, interrupt: interrupt() }
}

impl Several {
    fn activate(&mut self, without: u64) {
        let mut net = self.net.lock().unwrap();
        let features = net.device_features() & !without;
        net.activate(Activation {
            memory: self.queues[0].memory.clone(),
            queues: self.queues.iter().map(|queue| queue.queue(true)).collect(),
            features,
            interrupt: Arc::clone(&self.interrupt),
        })
        .unwrap();
    }

    fn settle(&mut self) {
        let mut rounds = 0;
        while self.events.run_with_timeout(0).unwrap() > 0 {
            rounds += 1;
            assert!(rounds < 100, "the device spins");
        }
    }

    fn kick(&mut self, queue: usize) {
        self.net.lock().unwrap().queue_events()[queue].write(1).unwrap();
        self.settle();
    }

    /// Asks for so many pairs; the answer.
    fn ask(&mut self, queue: usize, pairs: u16) -> u8 {
        let [low, high] = pairs.to_le_bytes();
        let at = DATA + 0x30_0000;
        self.queues[queue].write(at, &[4, 0, low, high, 0xee]);
        self.queues[queue].offer(&[readable(at, 4), writable(at + 4, 1)]);
        self.kick(queue);
        assert_eq!(self.queues[queue].used().len(), 1);
        self.queues[queue].read(at + 4, 1)[0]
    }

    /// Offers room for frames on all receive queues, as much as they take.
    fn offer(&mut self) {
        (0..usize::from(PAIRS)).for_each(|pair| self.offer_to(pair, 128));
    }

    fn offer_to(&mut self, pair: usize, count: u64) {
        let base = DATA + 0x4_0000 * u64::try_from(pair + 1).unwrap();
        (0..count).for_each(|i| {
            self.queues[2 * pair].offer(&[writable(base + i * 0x600, 0x600)]);
        });
        self.kick(2 * pair);
    }

    /// Frames that each pair has got.
    fn got(&mut self) -> Vec<usize> {
        (0..usize::from(PAIRS)).map(|pair| self.queues[2 * pair].used().len()).collect()
    }

    fn transmit(&mut self, pair: usize, frame: &[u8]) {
        let at = DATA + 0x20_0000 + 0x1000 * u64::try_from(pair).unwrap();
        let bytes = [&[0; header::LEN][..], frame].concat();
        self.queues[2 * pair + 1].write(at, &bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        self.queues[2 * pair + 1].offer(&[readable(at, len)]);
        self.kick(2 * pair + 1);
    }
}

fn stream() -> (NetConfig, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let opened = crate::vmm::host::Opened::new(Wire::Stream(ours.into()));
    (NetConfig { mac: Some([2, 0, 0, 0, 0, 7]), opened, ..NetConfig::default() }, peer)
}

fn send_to(peer: &mut UnixStream, frame: &[u8]) {
    peer.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
    peer.write_all(frame).unwrap();
}

fn receive_from(peer: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    peer.read_exact(&mut len).unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap()];
    peer.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn one_pair_has_no_control_queue() {
    let one = Net::new(&NetConfig::default(), 1).unwrap();
    assert_eq!(one.queue_sizes(), [256, 256]);
    let bits = 1 << VIRTIO_NET_F_MQ | 1 << VIRTIO_NET_F_CTRL_VQ;
    assert_eq!(one.device_features() & bits, 0);
    let more = Net::new(&NetConfig::default(), PAIRS).unwrap();
    assert_eq!(more.queue_sizes(), [256, 256, 256, 256, 256, 256, 64]);
    assert_eq!(more.device_features() & bits, bits);
    let mut space = [0xff; 4];
    more.read_config(6, &mut space);
    assert_eq!(space, [1, 0, PAIRS, 0]);
    assert_eq!((pairs(0), pairs(1), pairs(3), pairs(200)), (1, 1, 3, MAX_PAIRS));
}

#[test]
fn a_stream_is_one_link_for_all_pairs() {
    let (config, mut peer) = stream();
    let mut m = several(&config);
    m.activate(0);
    m.offer();
    assert_eq!(m.ask(6, 3), 0);
    assert_eq!(m.ask(6, 4), 1);
    for pair in 0..3 {
        m.transmit(pair, &frame(100, u8::try_from(pair).unwrap()));
        assert_eq!(receive_from(&mut peer), frame(100, u8::try_from(pair).unwrap()));
    }
    send_to(&mut peer, &frame(1514, 5));
    m.settle();
    assert_eq!(m.got(), [1, 0, 0]);
    let room = DATA + 0x4_0000;
    assert_eq!(m.queues[0].read(room + 12, 1514), frame(1514, 5));
    assert_eq!(m.queues[0].read(room, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn a_cut_cable_is_told_of() {
    let (config, peer) = stream();
    let mut m = several(&config);
    m.activate(0);
    m.offer();
    let status = |m: &Several| {
        let mut status = [0; 2];
        m.net.lock().unwrap().read_config(6, &mut status);
        status
    };
    assert_eq!((status(&m), m.interrupt.status() & 2), ([1, 0], 0));
    drop(peer);
    m.settle();
    assert_eq!((status(&m), m.interrupt.status() & 2), ([0, 0], 2));
    m.transmit(1, &frame(100, 1));
    let metrics = m.net.lock().unwrap().metrics();
    assert_eq!((metrics.link_ends.get(), metrics.tx_host_errors.get()), (1, 1));
    // Another cable.
    let (ours, mut peer) = UnixStream::pair().unwrap();
    m.net.lock().unwrap().unplug().unwrap();
    let plug = Plug::Net {
        wire: Wire::Stream(ours.into()),
        mac: None,
        rx_rate_limiter: RateLimiter::NONE,
        tx_rate_limiter: RateLimiter::NONE,
    };
    m.net.lock().unwrap().plug(plug).unwrap();
    m.settle();
    assert_eq!(status(&m), [1, 0]);
    m.transmit(1, &frame(100, 1));
    assert_eq!(receive_from(&mut peer), frame(100, 1));
    send_to(&mut peer, &frame(100, 2));
    m.settle();
    assert_eq!(m.got(), [1, 0, 0]);
}

#[test]
fn a_full_stream_is_waited_for() {
    let (config, mut peer) = stream();
    let mut m = several(&config);
    m.activate(0);
    let mut sent = 0u32;
    // Far more than any socket's buffers.
    while m.queues[3].used().len() == usize::from(sent > 0) && sent < 100_000 {
        m.transmit(1, &frame(1000, sent.to_le_bytes()[0]));
        sent += 1;
    }
    for i in 0..sent {
        assert_eq!(receive_from(&mut peer), frame(1000, i.to_le_bytes()[0]));
        m.settle();
    }
    assert!(sent < 100_000, "it was never full");
    m.transmit(1, &frame(1000, 7));
    assert_eq!(receive_from(&mut peer), frame(1000, 7));
}

#[test]
fn limits_of_both_directions_wake_those_who_wait() {
    let (config, mut peer) = stream();
    let two = TokenBucket { size: 2, one_time_burst: 0, refill_time: 10 };
    let limit = RateLimiter { bandwidth: None, ops: Some(two) };
    let mut m = several(&NetConfig { rx_rate_limiter: limit, tx_rate_limiter: limit, ..config });
    m.activate(0);
    m.offer();
    for i in 0..6 {
        send_to(&mut peer, &frame(100, i));
        m.transmit(usize::from(i % 3), &frame(100, i));
    }
    let metrics = m.net.lock().unwrap().metrics();
    while metrics.rx_frames.get() + metrics.tx_frames.get() < 12 {
        assert!(m.events.run_with_timeout(10_000).unwrap() > 0, "nobody was woken");
    }
    assert_eq!(m.got(), [6, 0, 0]);
    assert!(metrics.rx_throttled.get() >= 2 && metrics.tx_throttled.get() >= 2);
    for _ in 0..6 {
        assert_eq!(receive_from(&mut peer).len(), 100);
    }
}

#[test]
fn a_driver_that_knows_of_one_pair_has_its_control_queue_behind_that() {
    let (config, mut peer) = stream();
    let mut m = several(&config);
    m.activate(1 << VIRTIO_NET_F_MQ);
    assert_eq!(m.ask(2, 1), 0);
    m.transmit(0, &frame(100, 1));
    assert_eq!(receive_from(&mut peer), frame(100, 1));
    // Queues that it has not set up are not touched.
    m.transmit(1, &frame(100, 1));
    assert_eq!(m.queues[3].used().len(), 0);
    assert_eq!(m.net.lock().unwrap().positions().unwrap().len(), 7);
}

#[test]
fn a_queue_that_is_missing_is_an_error() {
    let mut net = Net::new(&NetConfig::default(), PAIRS).unwrap();
    let memory = memory();
    for missing in [0, 3, 6] {
        let mut queues: Vec<_> =
            (0..7).map(|i| Driver::new(&memory, i * 0x1800, 128).queue(true)).collect();
        queues[missing] = Queue::new(128).unwrap();
        let features = net.device_features();
        let interrupt = interrupt();
        let activation = Activation { memory: memory.clone(), queues, features, interrupt };
        assert!(net.activate(activation).is_err());
    }
}

#[test]
fn how_many_pairs_are_in_use_is_saved() {
    let (config, _peer) = stream();
    let mut m = several(&config);
    m.activate(0);
    assert_eq!(m.ask(6, 2), 0);
    let saved = m.net.lock().unwrap().save();
    assert_eq!(saved, DeviceState::Net { mac: [2, 0, 0, 0, 0, 7], pairs: 2 });
    let mut other = Net::new(&NetConfig::default(), PAIRS).unwrap();
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    other.reset();
    assert_ne!(other.save(), saved, "a new driver asks anew");
    assert!(Net::new(&NetConfig::default(), 1).unwrap().restore(&saved).is_err());
    for pairs in [0, 4] {
        assert!(other.restore(&DeviceState::Net { mac: [0; 6], pairs }).is_err());
    }
}

#[test]
fn a_tap_has_as_many_queues_as_it_was_made_for() {
    in_own_network("a_tap_has_as_many_queues_as_it_was_made_for", || {
        let several = open_queues(TAP, 3).unwrap();
        assert_eq!(several.len(), 3);
        // One more, without being told that it is one of several.
        drop(open(TAP).unwrap());
        drop(several);
        let one = open(TAP).unwrap();
        assert!(matches!(open_queues(TAP, 3), Err(NetError::Busy { .. })));
        drop(one);
    });
}

#[test]
fn frames_of_all_queues_of_a_tap_reach_the_pairs_in_use() {
    in_own_network("frames_of_all_queues_of_a_tap_reach_the_pairs_in_use", || {
        let mut m = several(&config_with(TAP, PAIRS));
        up(TAP);
        let host = packet_socket(TAP);
        // The kernel looks into frames of a socket of their kind.
        let ipv4 = packet_socket_of(TAP, 0x0800);
        m.activate(0);
        m.offer();
        // Many flows: the kernel spreads them over the queues by what is in them.
        let flows = |m: &mut Several| {
            for flow in 0..60u8 {
                let mut udp = frame(100, 0);
                udp[12..14].copy_from_slice(&[8, 0]);
                udp[14..16].copy_from_slice(&[0x45, 0]);
                udp[16..18].copy_from_slice(&86u16.to_be_bytes());
                udp[23] = 17;
                udp[26..38].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2, 7, flow, 9, 9]);
                send(ipv4.as_raw_fd(), &udp, MsgFlags::empty()).unwrap();
            }
            m.settle();
            m.got()
        };
        let got = flows(&mut m);
        assert!(got[0] >= 60 && got[1..] == [0, 0], "one pair is in use: {got:?}");
        assert_eq!(m.ask(6, 3), 0);
        m.offer_to(0, 50);
        let got = flows(&mut m);
        assert!(got.iter().all(|count| *count > 0), "{got:?}");
        assert!(got.iter().sum::<usize>() >= 60, "{got:?}");
        for pair in 0..3 {
            m.transmit(pair, &frame(900, u8::try_from(pair).unwrap()));
            let mut bytes = vec![0; 2000];
            let len = recv(host.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            assert_eq!(bytes[..len], frame(900, u8::try_from(pair).unwrap()));
        }
    });
}
