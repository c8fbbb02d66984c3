//! Namespaces of this machine, joined and left. What would be the guest is played by the test, at the tap.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::testing::Namespace;
use super::{Interface, NetworkError, clear, join};

/// Nobody is waited for.
const NO_TIME: Duration = Duration::ZERO;

/// A namespace with `eth0`, and one with the other end of that, as CNI's `ptp` leaves them; none where
/// they cannot be had.
fn pair() -> Option<(Namespace, Namespace)> {
    let has_tools = ["ip", "tc", "nsenter"].iter().all(|tool| {
        let version = Command::new(tool).arg("-V").stdout(Stdio::null()).status();
        version.is_ok()
    });
    if !nix::unistd::geteuid().is_root()
        || !has_tools
        || !std::path::Path::new("/dev/net/tun").exists()
    {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        println!("skipped: {name}: needs root, ip, tc, nsenter and /dev/net/tun");
        return None;
    }
    let (pod, far) = (Namespace::new(), Namespace::new());
    pod.run(&format!(
        "ip link set lo up; ip link add eth0 address 02:00:00:00:00:02 mtu 1400 type veth \
             peer name far0 address 02:00:00:00:00:01 netns {}
         ip addr add 10.7.0.2/24 dev eth0 noprefixroute
         ip addr add fd00:7::2/64 dev eth0 nodad noprefixroute
         ip link set eth0 up
         ip route add 10.7.0.1 dev eth0 scope link src 10.7.0.2
         ip route add 10.7.0.0/24 via 10.7.0.1 dev eth0
         ip route add default via 10.7.0.1 dev eth0 metric 5
         ip -6 route add fd00:7::1 dev eth0
         ip -6 route add default via fd00:7::1 dev eth0
         ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        far.path()
    ));
    far.run("ip addr add 10.7.0.1/24 dev far0; ip link set far0 up");
    Some((pod, far))
}

/// What a namespace has, without what changes by itself.
fn state(namespace: &Namespace) -> String {
    let all = namespace.run(
        "ip -o link | cut -d: -f2; tc qdisc show; ip -o addr show scope global; ip route; \
         ip -6 route show default",
    );
    all.replace(" linkdown", "")
}

/// The next frame of this type that comes out of a tap, without its offload header.
fn frame(tap: &mut File, kind: [u8; 2]) -> Vec<u8> {
    for _ in 0..64 {
        let mut fds = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)).unwrap(), 1, "no frame comes");
        let mut frame = [0; 2048];
        let length = tap.read(&mut frame).unwrap();
        if frame[24..26] == kind {
            return frame[12..length].to_vec();
        }
    }
    panic!("too many other frames");
}

/// Answers who has 10.7.0.2.
fn arp_reply() -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 6]);
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    bytes.extend([2, 0, 0, 0, 0, 2, 10, 7, 0, 2, 2, 0, 0, 0, 0, 1, 10, 7, 0, 1]);
    bytes
}

#[test]
fn what_comes_in_is_the_guests_and_nothing_stays() {
    let Some((pod, far)) = pair() else { return };
    let before = state(&pod);
    let (joined, mut interfaces) = join(pod.0.as_fd()).unwrap();
    let [Interface { guest, tap }] = interfaces.as_mut_slice() else { panic!("{interfaces:?}") };
    assert_eq!((guest.name.as_str(), guest.slot, guest.mtu), ("eth0", 0, Some(1400)));
    assert_eq!(guest.mac, [2, 0, 0, 0, 0, 2]);
    let addresses: Vec<String> = guest.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.7.0.2/24", "fd00:7::2/64"]);
    let mut routes: Vec<String> = guest
        .routes
        .iter()
        .map(|r| format!("{} {:?} {:?} {}", r.destination, r.gateway, r.source, r.scope))
        .collect();
    routes.sort();
    let expected = [
        "0.0.0.0/0 Some(10.7.0.1) None 0",
        "10.7.0.0/24 Some(10.7.0.1) None 0",
        "10.7.0.1/32 None Some(10.7.0.2) 253",
        "::/0 Some(fd00:7::1) None 0",
        "fd00:7::1/128 None None 0",
    ];
    assert_eq!(routes, expected);
    assert_eq!(guest.neighbours.len(), 1);
    assert_eq!(guest.neighbours[0].mac, [2, 0, 0, 0, 0, 9]);

    let socket = far.socket("10.7.0.1:0");
    socket.send_to(b"hello guest", "10.7.0.2:7").unwrap();
    frame(tap, [8, 6]);
    // The namespace's own stack has not answered in the guest's place, and the guest is heard.
    tap.write_all(&arp_reply()).unwrap();
    let packet = frame(tap, [8, 0]);
    assert!(packet.ends_with(b"hello guest"), "{packet:?}");
    assert!(far.run("ip neigh show 10.7.0.2").contains("02:00:00:00:00:02"));

    // Nobody else joins it meanwhile, and it is not cleared away.
    assert!(matches!(join(pod.0.as_fd()), Err(NetworkError::Taken(name)) if name == "eth0"));
    clear(pod.0.as_fd(), NO_TIME).unwrap();
    socket.send_to(b"still here", "10.7.0.2:7").unwrap();
    assert!(frame(tap, [8, 0]).ends_with(b"still here"));
    joined.leave().unwrap();
    assert_eq!(state(&pod), before);
}

#[test]
fn later_interfaces_are_joined_too() {
    let Some((pod, far)) = pair() else { return };
    let (mut joined, first) = join(pod.0.as_fd()).unwrap();
    assert!(joined.rescan().unwrap().is_empty());
    pod.run(&format!("ip link add net1 type veth peer name far1 netns {}", far.path()));
    assert!(joined.rescan().unwrap().is_empty(), "it is down");
    pod.run(
        "ip addr add 10.8.0.2/24 dev net1; ip link set net1 up; ip link add br0 type bridge; \
             ip link add port type veth peer name other; ip link set port up master br0",
    );
    let later = joined.rescan().unwrap();
    let named: Vec<_> = later.iter().map(|i| (i.guest.name.as_str(), i.guest.slot)).collect();
    assert_eq!(named, [("net1", 1)]);
    assert_eq!(later[0].guest.routes.len(), 1, "that of its own network");
    assert!(joined.left_out().iter().any(|text| text.contains("port")), "{:?}", joined.left_out());
    // One goes before the guest does.
    pod.run("ip link del net1");
    drop(joined);
    assert!(!state(&pod).contains("ampoule"));
    drop(first);
}

#[test]
fn what_a_killed_keeper_left_is_cleared_away_or_taken_over() {
    let Some((pod, _far)) = pair() else { return };
    let before = state(&pod);
    for taken_over in [false, true] {
        let (joined, interfaces) = join(pod.0.as_fd()).unwrap();
        // As after a kill: nothing is undone, and the taps are closed.
        std::mem::forget(joined);
        drop(interfaces);
        assert_ne!(state(&pod), before);
        if taken_over {
            let (joined, mut interfaces) = join(pod.0.as_fd()).unwrap();
            let tap = &mut interfaces[0].tap;
            tap.write_all(&arp_reply()).unwrap();
            joined.leave().unwrap();
        } else {
            clear(pod.0.as_fd(), NO_TIME).unwrap();
        }
        assert_eq!(state(&pod), before);
    }
}

#[test]
fn what_cannot_be_joined_is_refused_and_left_as_it_was() {
    let Some((pod, far)) = pair() else { return };
    pod.run("tc qdisc add dev eth0 ingress");
    let before = state(&pod);
    assert!(matches!(join(pod.0.as_fd()), Err(NetworkError::Ingress(name)) if name == "eth0"));
    assert_eq!(state(&pod), before);
    pod.run("tc qdisc del dev eth0 ingress");
    for n in 1..5 {
        pod.run(&format!(
            "ip link add n{n} type veth peer name f{n} netns {}; ip link set n{n} up",
            far.path()
        ));
    }
    let error = join(pod.0.as_fd()).unwrap_err().to_string();
    assert!(error.contains("eth0, n1, n2, n3, n4"), "{error}");
    let own = File::open("/proc/self/ns/net").unwrap();
    assert!(matches!(join(own.as_fd()), Err(NetworkError::Hosts)));
    assert!(matches!(clear(own.as_fd(), NO_TIME), Err(NetworkError::Hosts)));
    let other = File::open("/proc/self/ns/uts").unwrap();
    assert!(matches!(join(other.as_fd()), Err(NetworkError::Other)));
}
