//! Real packets, between namespaces in place of guests, the host and somebody outside.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::tests::{network, port, published};
use super::*;
use crate::network::testing::Namespace;

/// The host, with guests 10.9.0.2 and .3 on `br0`, 10.9.1.2 on `br1`, and somebody outside, who has an
/// address of the internet and a private one, and knows the way to the guests.
struct World {
    host: Namespace,
    guests: Vec<Namespace>,
    outside: Namespace,
    firewall: Firewall,
}

/// Tap and bridge of each guest, and its addresses.
const GUESTS: [(&str, &str, [&str; 2]); 3] = [
    ("tap1", "br0", ["10.9.0.2", "fd00:9::2"]),
    ("tap2", "br0", ["10.9.0.3", "fd00:9::3"]),
    ("tap3", "br1", ["10.9.1.2", "fd00:9:1::2"]),
];

fn ports() -> Vec<PortRules> {
    let ports = GUESTS.iter().zip(1..);
    ports.map(|((tap, bridge, addresses), number)| port(tap, bridge, number, addresses)).collect()
}

fn networks() -> [NetworkRules; 2] {
    [
        network("br0", &["10.9.0.0/24", "fd00:9::/64"]),
        network("br1", &["10.9.1.0/24", "fd00:9:1::/64"]),
    ]
}

impl World {
    fn new(networks: &[NetworkRules], ports: &[PortRules]) -> Option<Self> {
        let host = Namespace::possible(&["ip", "nsenter"])?;
        let outside = Namespace::new();
        host.run(&format!(
            "ip link set lo up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             for n in 0 1; do
                ip link add br$n address 02:00:00:00:01:0$n type bridge; ip link set br$n up
                echo 1 > /proc/sys/net/ipv4/conf/br$n/route_localnet
                echo 0 > /proc/sys/net/ipv6/conf/br$n/accept_dad
                ip addr add 10.9.$n.1/24 dev br$n
             done
             ip addr add fd00:9::1/64 dev br0 nodad; ip addr add fd00:9:1::1/64 dev br1 nodad
             ip link add out type veth peer name eth0 netns {}
             ip addr add 192.168.7.1/24 dev out; ip addr add 5.5.5.1/24 dev out
             ip addr add 2600:5::1/64 dev out nodad; ip link set out up",
            outside.path()
        ));
        outside.run(
            "ip link set lo up; ip addr add 192.168.7.2/24 dev eth0; ip addr add 5.5.5.5/24 dev eth0
             ip addr add 2600:5::5/64 dev eth0 nodad; ip link set eth0 up
             ip route add 10.9.0.0/16 via 192.168.7.1; ip route add fd00:9::/32 via 2600:5::1",
        );
        outside.serve("0.0.0.0:80");
        outside.serve("[2600:5::5]:80");
        let mut guests = Vec::new();
        for (number, (tap, bridge, [v4, v6])) in (1..).zip(GUESTS) {
            let guest = Namespace::new();
            host.run(&format!(
                "ip link add {tap} type veth peer name eth0 address 02:00:00:00:00:0{number} netns {}
                 ip link set {tap} master {bridge} up; ip link set {tap} type bridge_slave hairpin on",
                guest.path()
            ));
            let (gateway4, gateway6) = (
                v4.replace(".2", ".1").replace(".3", ".1"),
                v6.replace("::2", "::1").replace("::3", "::1"),
            );
            guest.run(&format!(
                "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
                 ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0 nodad; ip link set eth0 up
                 ip route add default via {gateway4}; ip -6 route add default via {gateway6}"
            ));
            guest.serve("0.0.0.0:80");
            guest.serve(&format!("[{v6}]:80"));
            guests.push(guest);
        }
        let mut firewall = host.within(|| Firewall::open().unwrap());
        firewall.ensure().unwrap();
        for network in networks {
            firewall.add_network(network).unwrap();
        }
        for port in ports {
            firewall.add_port(port).unwrap();
        }
        Some(Self { host, guests, outside, firewall })
    }
}

fn seen<E>(address: &str) -> Result<std::net::IpAddr, E> {
    Ok(address.parse().unwrap())
}

const NO_ANSWER: [ErrorKind; 2] = [ErrorKind::TimedOut, ErrorKind::WouldBlock];

#[track_caller]
fn dropped(result: Result<std::net::IpAddr, ErrorKind>) {
    assert!(result.as_ref().is_err_and(|error| NO_ANSWER.contains(error)), "{result:?}");
}

#[track_caller]
fn refused(result: Result<std::net::IpAddr, ErrorKind>) {
    let refusals =
        [ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable, ErrorKind::PermissionDenied];
    assert!(result.as_ref().is_err_and(|error| refusals.contains(error)), "{result:?}");
}

#[test]
fn networks_are_apart_and_leave_by_the_hosts_address() {
    let Some(mut world) = World::new(&networks(), &ports()) else { return };
    let [one, two, three] = &world.guests[..] else { panic!() };
    assert_eq!(one.tcp("10.9.0.3:80"), seen("10.9.0.2"));
    assert_eq!(one.udp("[fd00:9::3]:80"), seen("fd00:9::2"));
    // Who answers sees the host.
    assert_eq!(one.tcp("192.168.7.2:80"), seen("192.168.7.1"));
    let masqueraded = one.udp("5.5.5.5:80").unwrap().to_string();
    assert!(["192.168.7.1", "5.5.5.1"].contains(&&masqueraded[..]), "{masqueraded}");
    assert_eq!(two.tcp("[2600:5::5]:80"), seen("2600:5::1"));
    // No network speaks to another, and nobody from outside to either.
    for (from, to) in [(one, "10.9.1.2:80"), (one, "[fd00:9:1::2]:80"), (three, "10.9.0.2:80")] {
        dropped(from.tcp(to));
        dropped(from.udp(to));
    }
    for to in ["10.9.0.2:80", "[fd00:9::2]:80"] {
        dropped(world.outside.tcp(to));
        dropped(world.outside.udp(to));
        // The host does.
        world.host.tcp(to).unwrap();
    }
    // By the host, too.
    assert_eq!(world.host.tcp("10.9.1.2:80"), seen("10.9.1.1"));

    let [first, second] = &mut networks();
    first.internal = true;
    second.icc = false;
    world.firewall.add_network(first).unwrap();
    world.firewall.add_network(second).unwrap();
    world.host.serve("10.9.0.1:53");
    world.host.serve("10.9.0.1:99");
    let [one, _, three] = &world.guests[..] else { panic!() };
    assert_eq!(one.tcp("10.9.0.3:80"), seen("10.9.0.2"));
    assert_eq!(one.tcp("10.9.0.1:53"), seen("10.9.0.2"));
    refused(one.tcp("10.9.0.1:99"));
    refused(one.tcp("192.168.7.2:80"));
    refused(one.udp("[2600:5::5]:80"));
    assert_eq!(three.tcp("192.168.7.2:80"), seen("192.168.7.1"));
    assert_eq!(world.host.tcp("10.9.0.2:80"), seen("10.9.0.1"));
}

#[test]
fn without_icc_guests_reach_each_other_by_what_is_published_alone() {
    let mut networks = networks();
    networks[0].icc = false;
    let mut ports = ports();
    ports[1].published = vec![published(None, 8080, "10.9.0.3:80", Protocol::Tcp)];
    let Some(world) = World::new(&networks, &ports) else { return };
    let [one, _, three] = &world.guests[..] else { panic!() };
    for to in ["10.9.0.3:80", "[fd00:9::3]:80"] {
        let result = one.tcp(to);
        assert!(result.is_err(), "{result:?}");
    }
    // By way of the host neither.
    one.run("ip route add 10.9.0.3 via 10.9.0.1");
    dropped(one.tcp("10.9.0.3:80"));
    one.tcp("10.9.0.1:8080").unwrap();
    three.tcp("192.168.7.1:8080").unwrap();
    assert_eq!(one.tcp("192.168.7.2:80"), seen("192.168.7.1"));
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let mut ports = ports();
    let v6 = "fd00:9::2:80";
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        ports[0].published.extend([
            published(None, 8080, "10.9.0.2:80", protocol),
            published(None, 8080, v6, protocol),
            published(Some("127.0.0.1"), 8081, "10.9.0.2:80", protocol),
            published(Some("192.168.7.1"), 8082, "10.9.0.2:80", protocol),
            published(Some("2600:5::1"), 8083, v6, protocol),
            // The name server stays reachable.
            published(None, 53, "10.9.0.2:80", protocol),
        ]);
    }
    let Some(mut world) = World::new(&networks(), &ports) else { return };
    let [one, two, three] = &world.guests[..] else { panic!() };
    for ask in [Namespace::tcp, Namespace::udp] {
        assert_eq!(ask(&world.outside, "192.168.7.1:8080"), seen("192.168.7.2"));
        assert_eq!(ask(&world.outside, "5.5.5.1:8080"), seen("5.5.5.5"));
        assert_eq!(ask(&world.outside, "[2600:5::1]:8080"), seen("2600:5::5"));
        assert_eq!(ask(&world.outside, "192.168.7.1:8082"), seen("192.168.7.2"));
        assert_eq!(ask(&world.outside, "[2600:5::1]:8083"), seen("2600:5::5"));
        // The host itself, by all of its addresses.
        ask(&world.host, "192.168.7.1:8080").unwrap();
        ask(&world.host, "10.9.0.1:8080").unwrap();
        ask(&world.host, "[2600:5::1]:8080").unwrap();
        refused(ask(&world.host, "[::1]:8080"));
        assert_eq!(ask(&world.host, "127.0.0.1:8080"), seen("10.9.0.1"));
        assert_eq!(ask(&world.host, "127.0.0.1:8081"), seen("10.9.0.1"));
        // Other guests, the same network's and another's, and the one that it leads to itself.
        assert_eq!(ask(two, "192.168.7.1:8080"), seen("10.9.0.1"));
        assert_eq!(ask(two, "10.9.0.1:8080"), seen("10.9.0.1"));
        assert_eq!(ask(two, "[fd00:9::1]:8080"), seen("fd00:9::1"));
        assert_eq!(ask(one, "192.168.7.1:8080"), seen("10.9.0.1"));
        assert_eq!(ask(three, "192.168.7.1:8080"), seen("10.9.1.2"));
        // What is published at another address.
        refused(ask(&world.outside, "192.168.7.1:8081"));
        refused(ask(&world.outside, "5.5.5.1:8082"));
    }
    // The host's loopback network is nobody else's, however it is asked for.
    world.outside.run("ip route add 127.0.0.1/32 via 192.168.7.1 table 7; ip rule add to 127.0.0.1 table 7 pref 0
        ip rule add table local pref 1; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    two.run("ip route add 127.0.0.1/32 via 10.9.0.1 table 7; ip rule add to 127.0.0.1 table 7 pref 0
        ip rule add table local pref 1; ip rule del pref 0 table local; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet");
    world.host.serve("127.0.0.1:99");
    for from in [&world.outside, two] {
        for to in ["127.0.0.1:8081", "127.0.0.1:99"] {
            let result = from.tcp(to);
            assert!(result.is_err(), "{result:?}");
        }
    }
    world.host.serve("10.9.0.1:53");
    assert_eq!(two.tcp("10.9.0.1:53"), seen("10.9.0.3"));
    assert_eq!(two.udp("10.9.0.1:53"), seen("10.9.0.3"));
    assert_eq!(world.outside.tcp("192.168.7.1:53"), seen("192.168.7.2"));
    world.firewall.remove_port(&ports[0]).unwrap();
    refused(world.outside.tcp("192.168.7.1:8080"));
}

/// What a connected socket of UDP is answered.
fn asked(socket: &UdpSocket) -> Option<String> {
    // What was refused before is told first.
    let _ = socket.take_error();
    socket.send(b"hello").ok()?;
    let mut text = [0; 64];
    let length = socket.recv(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text[..length]).into())
}

#[test]
fn a_connection_ends_with_the_container_that_it_leads_to() {
    let mut ports = ports();
    ports[0].published = vec![
        published(None, 8080, "10.9.0.2:80", Protocol::Udp),
        published(None, 8080, "fd00:9::2:80", Protocol::Udp),
    ];
    let Some(mut world) = World::new(&networks(), &ports) else { return };
    let connect = |own: &str, to: &str| {
        let socket = world.outside.socket(own);
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect(to).unwrap();
        socket
    };
    let four = connect("192.168.7.2:5000", "192.168.7.1:8080");
    let six = connect("[2600:5::5]:5000", "[2600:5::1]:8080");
    // One that the container has opened itself.
    let own = world.guests[0].socket("10.9.0.2:6000");
    own.connect("192.168.7.2:80").unwrap();
    own.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(asked(&own).as_deref(), Some("192.168.7.1"));
    assert_eq!(asked(&four).as_deref(), Some("192.168.7.2"));
    assert_eq!(asked(&six).as_deref(), Some("2600:5::5"));
    let other = connect("192.168.7.2:5001", "192.168.7.1:8080");
    assert_eq!(asked(&other).as_deref(), Some("192.168.7.2"));
    // Rules are asked about first packets alone.
    world.firewall.remove_port(&ports[0]).unwrap();
    assert_eq!(asked(&four).as_deref(), Some("192.168.7.2"));
    let forget = |addresses: &[std::net::IpAddr]| {
        world.host.within(|| crate::network::conntrack::forget(addresses).unwrap())
    };
    assert_eq!(forget(&["10.9.0.9".parse().unwrap()]), 0);
    assert_eq!(forget(&ports[0].addresses), 4);
    assert_eq!(forget(&ports[0].addresses), 0);
    for socket in [&four, &six] {
        assert_eq!(asked(socket), None);
    }
    // What the client's packets have become meanwhile is the host's own affair.
    forget(&["192.168.7.1".parse().unwrap(), "2600:5::1".parse().unwrap()]);
    // Who publishes the same port next is asked next, by the same socket.
    ports[1].published = vec![published(None, 8080, "10.9.0.3:80", Protocol::Udp)];
    world.firewall.add_port(&ports[1]).unwrap();
    assert_eq!(asked(&four).as_deref(), Some("192.168.7.2"));
    let seen = world.host.within(|| crate::network::conntrack::forget(&ports[1].addresses));
    assert_eq!(seen.unwrap(), 1);
}

#[test]
fn what_is_no_networks_passes_unless_it_is_closed() {
    let mut ports = ports();
    ports[0].published = vec![published(None, 8080, "10.9.0.2:80", Protocol::Tcp)];
    let Some(mut world) = World::new(&networks(), &ports) else { return };
    // A second one outside, to whom the host is a router.
    let side = Namespace::new();
    world.host.run(&format!(
        "ip link add side type veth peer name eth0 netns {}; ip link set side up
         ip addr add 192.168.8.1/24 dev side; ip addr add 2600:8::1/64 dev side nodad",
        side.path()
    ));
    side.run(
        "ip addr add 192.168.8.2/24 dev eth0; ip addr add 2600:8::8/64 dev eth0 nodad
         ip link set eth0 up; ip route add default via 192.168.8.1
         ip -6 route add default via 2600:8::1",
    );
    world
        .outside
        .run("ip route add 192.168.8.0/24 via 192.168.7.1; ip route add 2600:8::/64 via 2600:5::1");
    // The host takes up to a second to see that the cable is in.
    assert!((0..25).any(|_| side.tcp("[2600:5::5]:80").is_ok()));
    let asks = |firewall: &mut Firewall, four, six| {
        firewall.close_others(Families { four, six }).unwrap();
        for (to, closed) in [("192.168.7.2:80", four), ("[2600:5::5]:80", six)] {
            assert_eq!(side.tcp(to).is_err(), closed, "{to} {four} {six}");
        }
        // Networks lead where they did.
        world.guests[0].tcp("192.168.7.2:80").unwrap();
        world.guests[0].tcp("[2600:5::5]:80").unwrap();
        side.tcp("192.168.8.1:8080").unwrap();
    };
    for (four, six) in [(false, false), (true, true), (true, false), (false, true)] {
        asks(&mut world.firewall, four, six);
    }
    // Making the rules anew, as a start would that saw none a moment ago, does not open it.
    let mut again = Batch::default();
    layout::ensure(&mut again);
    world.firewall.socket.commit(&again).unwrap();
    assert!(side.tcp("[2600:5::5]:80").is_err());
}

#[test]
fn egress_opens_what_it_says() {
    let mut ports = ports();
    ports[0].published = vec![published(None, 8080, "10.9.0.2:80", Protocol::Tcp)];
    let Some(mut world) = World::new(&networks(), &ports) else { return };
    world.host.serve("10.9.0.1:53");
    world.host.serve("0.0.0.0:99");
    // Neighbour, private, public, public of IPv6, the host as gateway and by its public address, a port
    // of its own that is published, names.
    let asked = [
        "10.9.0.3:80",
        "192.168.7.2:80",
        "5.5.5.5:80",
        "[2600:5::5]:80",
        "10.9.0.1:99",
        "5.5.5.1:99",
        "192.168.7.1:8080",
        "10.9.0.1:53",
    ];
    for (egress, open) in [
        ("all", [true; 8]),
        ("none", [false; 8]),
        ("public", [false, false, true, true, false, false, false, true]),
        ("192.168.7.2:80/tcp", [false, true, false, false, false, false, false, true]),
        (
            "192.168.7.2:81,192.168.7.2/udp,10.9.0.3:80",
            [true, false, false, false, false, false, false, true],
        ),
        ("public,10.9.0.0/24:80-99", [true, false, true, true, true, false, false, true]),
        (
            "192.168.7.1:8080,[2600::/16]:80/tcp",
            [false, false, false, true, false, false, true, true],
        ),
    ] {
        ports[0].egress = egress.parse().unwrap();
        world.firewall.add_port(&ports[0]).unwrap();
        let one = &world.guests[0];
        let found = asked.map(|to| one.tcp(to).is_ok());
        assert_eq!(found, open, "{egress}");
        // Replies pass, whoever has asked.
        assert_eq!(world.outside.tcp("192.168.7.1:8080"), seen("192.168.7.2"), "{egress}");
        assert_eq!(world.guests[1].tcp("10.9.0.2:80"), seen("10.9.0.3"), "{egress}");
        world.host.tcp("10.9.0.2:80").unwrap();
        world.host.udp("10.9.0.2:80").unwrap();
    }
    refused(world.guests[0].tcp("192.168.7.2:80"));
    refused(world.guests[0].udp("192.168.7.2:80"));
    refused(world.guests[0].udp("10.9.0.1:99"));
}

/// A socket for whole frames.
fn raw(namespace: &Namespace) -> OwnedFd {
    namespace.within(|| {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        // SAFETY: all zeros is a value of this structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        // ETH_P_ALL.
        address.sll_protocol = 3u16.to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address is as long as it is said to be.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                libc::socklen_t::try_from(size_of_val(&address)).unwrap(),
            )
        };
        assert_eq!(bound, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
        socket
    })
}

const MAC1: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAC2: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ALL: [u8; 6] = [255; 6];

fn ether(from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&ALL[..], &from, &kind.to_be_bytes(), payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn arp(hardware: [u8; 6], source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    ether(MAC1, 0x0806, &[&head[..], &hardware, &source, &[0; 6], &target].concat())
}

fn ipv4(source: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = [
        &[0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0][..],
        &source,
        &[10, 9, 0, 255],
    ]
    .concat();
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ether(MAC1, 0x0800, &[&header[..], payload].concat())
}

fn udp(source: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &[0, 68, 0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    let all: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, 255];
    ether(MAC1, 0x86dd, &[&head[..], &source.octets(), &all.octets(), payload].concat())
}

/// A message of ICMPv6 that is about an address.
fn icmpv6(kind: u8, about: &str) -> Vec<u8> {
    let about: std::net::Ipv6Addr = about.parse().unwrap();
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &about.octets()].concat()
}

/// What is behind an empty header of options, or in a fragment.
fn behind(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat()
}

fn fragment(next: u8, offset: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | 1).to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 9][..], payload].concat()
}

#[test]
fn a_guest_has_its_own_addresses_alone() {
    let Some(world) = World::new(&networks(), &ports()) else { return };
    // The bridge's table alone has a say, not conntrack on what has no sums and comes in parts.
    world.host.run(
        "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0",
    );
    let (from, to) = (raw(&world.guests[0]), raw(&world.guests[1]));
    let (own, own6, link) = ([10, 9, 0, 2], "fd00:9::2", "fe80::ff:fe00:1");
    let frames: Vec<(&str, bool, Vec<u8>)> = vec![
        ("ARP", true, arp(MAC1, own, [10, 9, 0, 3])),
        ("asks for its own address", true, arp(MAC1, [0; 4], own)),
        ("another's hardware address in Ethernet", false, ether(MAC2, 0x0800, &[0; 40])),
        ("another's hardware address in ARP", false, arp(MAC2, own, [10, 9, 0, 3])),
        ("another's address in ARP", false, arp(MAC1, [10, 9, 0, 1], [10, 9, 0, 1])),
        ("asks for another's address", false, arp(MAC1, [0; 4], [10, 9, 0, 3])),
        ("IPv4", true, ipv4(own, 17, &udp(1000))),
        ("another's IPv4", false, ipv4([10, 9, 0, 3], 17, &udp(1000))),
        ("no IPv4", false, ipv4([0; 4], 17, &udp(68))),
        ("DHCP", false, ipv4(own, 17, &udp(67))),
        ("joins a group", true, ipv4(own, 2, &[0x16, 0, 0, 0, 0, 0, 0, 0])),
        ("asks for groups", false, ipv4(own, 2, &[0x11, 0, 0, 0, 0, 0, 0, 0])),
        ("IPv6", true, ipv6(own6, 17, &udp(1000))),
        ("IPv6, link-local", true, ipv6(link, 17, &udp(1000))),
        ("another's IPv6", false, ipv6("fd00:9::3", 17, &udp(1000))),
        ("another's IPv6, link-local", false, ipv6("fe80::ff:fe00:2", 17, &udp(1000))),
        ("DHCPv6", false, ipv6(link, 17, &udp(547))),
        ("options", true, ipv6(own6, 0, &behind(17, &udp(1000)))),
        ("looks for a neighbour", true, ipv6(own6, 58, &icmpv6(135, "fd00:9::3"))),
        ("is a neighbour", true, ipv6(own6, 58, &icmpv6(136, own6))),
        ("is a neighbour, link-local", true, ipv6(link, 58, &icmpv6(136, link))),
        ("is another neighbour", false, ipv6(own6, 58, &icmpv6(136, "fd00:9::1"))),
        ("tries its own address", true, ipv6("::", 58, &icmpv6(135, own6))),
        ("tries its own link-local address", true, ipv6("::", 58, &icmpv6(135, link))),
        ("tries another's address", false, ipv6("::", 58, &icmpv6(135, "fd00:9::3"))),
        ("is a neighbour without an address", false, ipv6("::", 58, &icmpv6(136, own6))),
        ("listens", true, ipv6("::", 0, &behind(58, &icmpv6(143, "::")))),
        ("datagram without an address", false, ipv6("::", 17, &udp(1000))),
        ("asks who listens", false, ipv6(link, 0, &behind(58, &icmpv6(130, "::")))),
        ("is a router", false, ipv6(link, 58, &icmpv6(134, "::"))),
        ("is a router, behind options", false, ipv6(link, 0, &behind(58, &icmpv6(134, "::")))),
        ("is a router, in a fragment", false, ipv6(link, 44, &fragment(58, 0, &icmpv6(134, "::")))),
        (
            "is a router, behind a fragment's options",
            false,
            ipv6(link, 44, &fragment(60, 0, &behind(58, &[]))),
        ),
        ("redirects", false, ipv6(link, 58, &icmpv6(137, "::"))),
        ("later fragment", true, ipv6(own6, 44, &fragment(58, 3, &[7; 16]))),
        ("virtual network", false, {
            let inner = ipv4(own, 17, &udp(1000));
            ether(MAC1, 0x8100, &[&[0, 5][..], &inner[12..]].concat())
        }),
        ("virtual network of the host", false, {
            let inner = ipv4(own, 17, &udp(1000));
            ether(MAC1, 0x8100, &[&[0, 0][..], &inner[12..]].concat())
        }),
        ("LLDP", false, ether(MAC1, 0x88cc, &[1; 46])),
        ("a length in place of a type", false, ether(MAC1, 46, &[1; 46])),
    ];
    for (name, passes, frame) in frames {
        // Whatever came meanwhile ends with this one, which passes.
        let end = ipv4(own, 17, &udp(7777));
        for sent in [&frame, &end] {
            assert_eq!(send(from.as_raw_fd(), sent, MsgFlags::empty()).unwrap(), sent.len());
        }
        let mut came = false;
        loop {
            let mut bytes = [0; 2048];
            let length = recv(to.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
            // The kernel may have cut off what fills up a short frame.
            came |= length >= 34 && frame.starts_with(&bytes[..length]);
            // The kernel keeps a tag apart from the frame.
            let tagged = frame[12..14] == [0x81, 0];
            came |= tagged && !end.starts_with(&bytes[..length]) && bytes[12..34] == frame[16..38];
            if length >= 34 && end.starts_with(&bytes[..length]) {
                break;
            }
        }
        assert_eq!(came, passes, "{name}");
    }
}

#[test]
fn frames_to_the_bridge_itself_are_no_way_past_it() {
    let Some(world) = World::new(&networks(), &ports()) else { return };
    let host = world.host.socket("0.0.0.0:68");
    host.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let from = raw(&world.guests[0]);
    let came = |host: &UdpSocket, first: [u8; 6], source: [u8; 4]| {
        let mut frame = ipv4(source, 17, &udp(1000));
        frame[..6].copy_from_slice(&first);
        // For the host's address in place of the network's.
        frame[30..34].copy_from_slice(&[10, 9, 0, 1]);
        frame[24..26].fill(0);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        send(from.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        host.recv_from(&mut [0; 64]).is_ok()
    };
    assert!(came(&host, [2, 0, 0, 0, 1, 0], [10, 9, 0, 2]));
    assert!(!came(&host, [2, 0, 0, 0, 1, 0], [10, 9, 0, 9]));
    for last in [0x0e, 0x03, 0x00, 0x02] {
        assert!(!came(&host, [1, 0x80, 0xc2, 0, 0, last], [10, 9, 0, 9]), "{last}");
    }
}
