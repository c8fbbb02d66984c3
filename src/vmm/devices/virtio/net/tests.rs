//! The device on a real tap, in a network namespace of the test's own.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use libc::c_int;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, recv, send};
use virtio_bindings::virtio_net::{VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_HDR_F_NEEDS_CSUM};

use super::*;
use crate::vmm::config::{NetBackend, NetConfig};
use crate::vmm::devices::virtio::testing::{
    DATA, Driver, interrupt, memory, raised, readable, writable,
};
use crate::vmm::devices::virtio::{Activation, Interrupt, Plug, PlugError, VirtioDevice};
use crate::vmm::rate::RateLimiter;

mod pairs;

const TAP: &str = "amptest0";

/// An EtherType for experiments (IEEE 802), which no protocol of the host answers.
const ETHERTYPE: u16 = 0x88b5;

fn config(tap: &str) -> NetConfig {
    config_with(tap, 1)
}

fn config_with(tap: &str, queues: u8) -> NetConfig {
    NetConfig {
        backend: Some(NetBackend::Tap { name: tap.to_owned(), queues }),
        mac: Some([2, 0, 0, 0, 0, 7]),
        ..NetConfig::default()
    }
}

/// Runs a test on a thread that has a network namespace of its own, or says why it cannot run.
fn in_own_network(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: {name}: no network namespace: {errno}");
                return;
            }
            if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun")
            {
                eprintln!("skipped: {name}: /dev/net/tun: {error}");
                return;
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Sets an interface up.
fn up(name: &str) {
    // SAFETY: plain system calls; zeroes are a valid ifreq, whose name ends in a 0 as it is shorter
    // than the field.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        assert_eq!(libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request), 0);
        request.ifr_ifru.ifru_flags |= i16::try_from(libc::IFF_UP).unwrap();
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw mut request), 0);
        libc::close(socket);
    }
}

/// The host's end of the tap: frames of [`ETHERTYPE`] as the host's kernel sees them.
fn packet_socket(name: &str) -> OwnedFd {
    packet_socket_of(name, ETHERTYPE)
}

fn packet_socket_of(name: &str, ethertype: u16) -> OwnedFd {
    // SAFETY: plain system calls; zeroes are a valid sockaddr_ll.
    unsafe {
        let protocol = c_int::from(ethertype.to_be());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = libc::socket(libc::AF_PACKET, kind, protocol);
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = c_int::try_from(if_nametoindex(name).unwrap()).unwrap();
        let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        assert_eq!(libc::bind(socket, (&raw const address).cast(), len), 0);
        OwnedFd::from_raw_fd(socket)
    }
}

fn frame(len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame
}

struct Machine {
    events: EventManager<Arc<std::sync::Mutex<Net>>>,
    net: Arc<std::sync::Mutex<Net>>,
    rx: Driver,
    tx: Driver,
    interrupt: Arc<Interrupt>,
    host: OwnedFd,
}

fn machine() -> Machine {
    machine_of(&config(TAP))
}

fn machine_of(config: &NetConfig) -> Machine {
    let net = Arc::new(std::sync::Mutex::new(Net::new(config, 1).unwrap()));
    up(TAP);
    let host = packet_socket(TAP);
    let mut events = EventManager::new().unwrap();
    events.add_subscriber(Arc::clone(&net));
    let memory = memory();
    let rx = Driver::new(&memory, 0, 256);
    let tx = Driver::new(&memory, 0x4000, 256);
    Machine { events, net, rx, tx, interrupt: interrupt(), host }
}

impl Machine {
    fn activate(&mut self) {
        let mut net = self.net.lock().unwrap();
        let features = net.device_features();
        assert_ne!(features & (1 << VIRTIO_NET_F_MRG_RXBUF), 0);
        net.activate(Activation {
            memory: self.rx.memory.clone(),
            queues: vec![self.rx.queue(true), self.tx.queue(true)],
            features,
            interrupt: Arc::clone(&self.interrupt),
        })
        .unwrap();
    }

    fn kick(&self, queue: usize) {
        self.net.lock().unwrap().queue_events()[queue].write(1).unwrap();
    }

    /// Handles events until there are none.
    fn settle(&mut self) {
        let mut rounds = 0;
        while self.events.run_with_timeout(0).unwrap() > 0 {
            rounds += 1;
            assert!(rounds < 100, "the device spins");
        }
    }

    fn offer_rx(&mut self, count: u64) {
        for i in 0..count {
            self.rx.offer(&[writable(DATA + i * 0x600, 0x600)]);
        }
    }

    /// Sends a frame of 900 bytes: the how manieth it is says where it lies.
    fn transmit(&mut self, count: u64, frame: &[u8]) {
        let at = DATA + 0x10_0000 + count * 0x1000;
        self.tx.write(at, &[0; header::LEN]);
        self.tx.write(at + 12, frame);
        self.tx.offer(&[readable(at, 12), readable(at + 12, 900)]);
        self.kick(1);
        self.settle();
    }

    fn host_receives(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 0x1_0000];
        match recv(self.host.as_raw_fd(), &mut frame, MsgFlags::empty()) {
            Ok(len) => Some(frame[..len].to_vec()),
            Err(Errno::EAGAIN) => None,
            Err(errno) => panic!("{errno}"),
        }
    }

    /// The frame in the receive buffer at this place, of those that were used.
    fn received(&self, place: u64, used: (u16, u32)) -> Vec<u8> {
        let bytes = self.rx.read(DATA + place * 0x600, usize::try_from(used.1).unwrap());
        assert_eq!(bytes[10..12], [1, 0], "num_buffers");
        bytes[header::LEN..].to_vec()
    }
}

#[test]
fn frames_go_both_ways() {
    in_own_network("frames_go_both_ways", || {
        let mut m = machine();
        m.offer_rx(64);
        m.activate();
        m.settle();

        let there = frame(1514, 0x21);
        assert_eq!(send(m.host.as_raw_fd(), &there, MsgFlags::empty()), Ok(1514));
        m.settle();
        let used: Vec<_> = m.rx.used();
        // The host's own chatter, such as IPv6's, may be among them.
        let frames: Vec<_> =
            (0u64..).zip(&used).map(|(place, &used)| m.received(place, used)).collect();
        assert!(frames.contains(&there));
        assert!(raised(&m.interrupt) > 0);

        let back = frame(900, 0x42);
        let at = DATA + 0x10_0000;
        m.tx.write(at, &[0; header::LEN]);
        m.tx.write(at + 12, &back);
        m.tx.offer(&[readable(at, 12), readable(at + 12, 900)]);
        m.kick(1);
        m.settle();
        assert_eq!(m.tx.used(), [(0, 0)]);
        assert_eq!(m.host_receives(), Some(back));
    });
}

#[test]
fn frames_from_before_the_driver_are_delivered_once_it_has_buffers() {
    in_own_network("frames_from_before_the_driver_are_delivered_once_it_has_buffers", || {
        let mut m = machine();
        m.settle();
        let early = frame(200, 0x11);
        send(m.host.as_raw_fd(), &early, MsgFlags::empty()).unwrap();
        // The one event that the tap tells of it finds no driver.
        m.settle();
        m.activate();
        m.settle();
        assert_eq!(m.rx.used(), [], "no buffers yet, and no spinning");
        m.offer_rx(64);
        m.kick(0);
        m.settle();
        let used = m.rx.used();
        let frames: Vec<_> =
            (0u64..).zip(&used).map(|(place, &used)| m.received(place, used)).collect();
        assert!(frames.contains(&early));
    });
}

#[test]
fn offload_headers_are_the_kernels_to_judge() {
    in_own_network("offload_headers_are_the_kernels_to_judge", || {
        let mut m = machine();
        m.activate();
        let needs_checksum = u8::try_from(VIRTIO_NET_HDR_F_NEEDS_CSUM).unwrap();
        let mut send_with = |start: u16, offset: u16| {
            let at = DATA + 0x10_0000;
            let mut bytes = vec![0; header::LEN];
            bytes[0] = needs_checksum;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
            bytes.extend(frame(100, 0));
            m.tx.write(at, &bytes);
            m.tx.offer(&[readable(at, 112)]);
            m.kick(1);
            m.settle();
            assert_eq!(m.tx.used().len(), 1);
            m.host_receives()
        };
        // Where TCP over IPv4 has its checksum; the kernel looks no closer.
        assert!(send_with(34, 16).is_some());
        assert!(send_with(200, 2).is_none(), "beyond the frame");
        assert!(send_with(u16::MAX, u16::MAX).is_none());
        let metrics = m.net.lock().unwrap().metrics();
        assert_eq!((metrics.tx_frames.get(), metrics.tx_bad_header.get()), (1, 2));
    });
}

#[test]
fn a_tap_that_is_down_loses_frames_and_nothing_else() {
    in_own_network("a_tap_that_is_down_loses_frames_and_nothing_else", || {
        let net = Arc::new(std::sync::Mutex::new(Net::new(&config(TAP), 1).unwrap()));
        let memory = memory();
        let (rx, mut tx) = (Driver::new(&memory, 0, 256), Driver::new(&memory, 0x4000, 256));
        let mut events: EventManager<Arc<std::sync::Mutex<dyn MutEventSubscriber>>> =
            EventManager::new().unwrap();
        events.add_subscriber(net.clone());
        net.lock()
            .unwrap()
            .activate(Activation {
                memory: memory.clone(),
                queues: vec![rx.queue(true), tx.queue(true)],
                features: u64::MAX,
                interrupt: interrupt(),
            })
            .unwrap();
        tx.offer(&[readable(DATA, 100)]);
        net.lock().unwrap().queue_events()[1].write(1).unwrap();
        while events.run_with_timeout(0).unwrap() > 0 {}
        assert_eq!(tx.used(), [(0, 0)]);
        assert_eq!(net.lock().unwrap().metrics().tx_host_errors.get(), 1);
    });
}

#[test]
fn taps_that_cannot_be_are_named() {
    for name in ["", "a b", "sixteen-bytes-xx", "a/b", "tap%d", "..", "tap\0"] {
        assert!(matches!(Net::new(&config(name), 1), Err(NetError::Name(_))), "{name:?}");
    }
    in_own_network("taps_that_cannot_be_are_named", || {
        let first = Net::new(&config(TAP), 1).unwrap();
        let error = Net::new(&config(TAP), 1).unwrap_err();
        assert!(matches!(error, NetError::Busy { .. }));
        assert!(error.to_string().contains(TAP), "{error}");
        assert!(matches!(Net::new(&config("lo"), 1), Err(NetError::NotATap { .. })));
        drop(first);
        Net::new(&config(TAP), 1).unwrap();
    });
}

#[test]
fn a_tap_that_may_not_be_made_is_told_apart() {
    in_own_network("a_tap_that_may_not_be_made_is_told_apart", || {
        const CAP_NET_ADMIN: u32 = 12;
        // SAFETY: plain structures for a plain system call, which changes this thread alone.
        unsafe {
            // Version 3 has two words of each set; CAP_NET_ADMIN is in the first.
            let mut header = [0x2008_0522u32, 0];
            let mut sets = [0u32; 6];
            assert_eq!(libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets), 0);
            sets[0] &= !(1 << CAP_NET_ADMIN);
            sets[1] &= !(1 << CAP_NET_ADMIN);
            assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, &raw const sets), 0);
        }
        let error = Net::new(&config(TAP), 1).unwrap_err();
        assert!(matches!(error, NetError::Missing { .. }), "{error}");
        assert!(error.to_string().contains("ip tuntap add amptest0"), "{error}");
    });
}

#[test]
fn the_configuration_space_has_the_address_and_a_link() {
    in_own_network("the_configuration_space_has_the_address_and_a_link", || {
        let net = Net::new(&config(TAP), 1).unwrap();
        let mut space = [0xff; 10];
        net.read_config(0, &mut space);
        assert_eq!(space, [2, 0, 0, 0, 0, 7, 1, 0, 0, 0]);
        let mac = Some([1, 0, 0, 0, 0, 0]);
        let error = Net::new(&NetConfig { mac, ..config(TAP) }, 1).unwrap_err();
        assert!(matches!(error, NetError::Mac(_)));
    });
}

#[test]
fn a_tap_comes_and_goes_under_a_driver_that_is_at_work() {
    in_own_network("a_tap_comes_and_goes_under_a_driver_that_is_at_work", || {
        // The interface is there before the device has it.
        let tap = open(TAP).unwrap();
        let mut m = machine_of(&NetConfig::default());
        m.offer_rx(64);
        m.activate();
        m.settle();
        let no_tap = std::fs::File::open("/dev/null").unwrap();
        let plug = |tap, mac| Plug::Net {
            wire: Wire::Tap(vec![tap]),
            mac,
            rx_rate_limiter: RateLimiter::NONE,
            tx_rate_limiter: RateLimiter::NONE,
        };
        let refused = m.net.lock().unwrap().plug(plug(no_tap, None));
        assert!(matches!(refused, Err(PlugError::Host { .. })));
        assert!(matches!(m.net.lock().unwrap().unplug(), Err(PlugError::Empty)));

        for (round, number) in (0u64..2).zip([0x51, 0x52]) {
            let plug = || plug(tap.try_clone().unwrap(), Some([2, 0, 0, 0, 0, 9]));
            m.net.lock().unwrap().plug(plug()).unwrap();
            assert!(matches!(m.net.lock().unwrap().plug(plug()), Err(PlugError::InUse)));
            m.settle();
            let mut mac = [0; 6];
            m.net.lock().unwrap().read_config(0, &mut mac);
            assert_eq!(mac, [2, 0, 0, 0, 0, 9]);

            let there = frame(1514, number);
            let before = m.rx.used().len();
            assert_eq!(send(m.host.as_raw_fd(), &there, MsgFlags::empty()), Ok(1514));
            m.settle();
            assert!(before > 0 || !m.rx.used().is_empty());
            m.transmit(round, &frame(900, number));
            assert_eq!(m.host_receives(), Some(frame(900, number)));

            m.net.lock().unwrap().unplug().unwrap();
            m.settle();
            m.transmit(round + 2, &frame(900, number));
            assert_eq!(m.host_receives(), None);
        }
    });
}
