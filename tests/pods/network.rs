//! Interfaces that a guest gets while it runs.

use std::os::fd::AsFd;

use ampoule::agent::message::{Create, NetworkNamespace, Request};
use ampoule::network::{self, Interface};
use ampoule::sandbox::SandboxError;
use ampoule::sandbox::monitored::{Backend, Nic};
use ampoule::sandbox::rates::NetRates;
use ampoule::vmm::devices::virtio::net;
use nix::sched::{CloneFlags, unshare};

use crate::pod::{Pod, busybox, container, shared, tool};
use crate::support::namespaces::{Bridge, Namespace, take};
use crate::{needs_networks, needs_sandboxes};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Both ways, and what would not fit into a frame.
const PING: &str = "ping -c 2 -W 20 -q 10.7.0.1 | grep -o '2 packets received'
    nc -w 20 10.7.0.1 5000 < /bin/busybox | cksum; cksum < /bin/busybox";

/// A tap without limits.
fn nic(tap: &impl AsFd, mac: Option<[u8; 6]>) -> Nic<'_> {
    Nic { mac, backend: Backend::Tap(vec![tap.as_fd()]), rates: &NetRates::NONE }
}

pub fn comes_and_goes() {
    needs_sandboxes!();
    // The namespace is this thread's, and that of all that it starts.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    for words in [
        "tuntap add tap0 mode tap vnet_hdr",
        "address add 10.7.0.1/24 dev tap0",
        "link set tap0 up",
    ] {
        tool("ip", &words.split(' ').collect::<Vec<_>>());
    }
    let echo = std::net::TcpListener::bind("10.7.0.1:5000").unwrap();
    std::thread::spawn(move || {
        for client in echo.incoming().flatten() {
            let (mut from, mut to) = (client.try_clone().unwrap(), client);
            let _ = std::io::copy(&mut from, &mut to);
        }
    });
    let mut pod = Pod::start();
    let root = pod.folder("root");
    busybox(&root);
    pod.share("root", &root, false);
    pod.run(container("a", shared("root"))).unwrap();
    let tap = net::open("tap0").unwrap();
    let guest = &mut pod.machine.guest;
    let refused = guest.plug_net(4, nic(&tap, None)).unwrap_err();
    assert!(
        matches!(&refused, SandboxError::Refused(why) if why.contains("no Net(4)")),
        "{refused}"
    );
    let refused = guest.unplug_net(2).unwrap_err();
    assert!(matches!(&refused, SandboxError::Refused(why) if why.contains("nothing")), "{refused}");
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(guest.plug_net(2, nic(&null, None)), Err(SandboxError::Refused(_))));

    guest.plug_net(2, nic(&tap, Some(MAC))).unwrap();
    let refused = guest.plug_net(2, nic(&tap, None)).unwrap_err();
    assert!(matches!(&refused, SandboxError::Refused(why) if why.contains("already")), "{refused}");
    let up = "ip link set eth2 address 02:00:00:00:00:09
        ip address add 10.7.0.2/24 dev eth2; ip link set eth2 up; ls /proc/sys/net/ipv4/conf | grep eth";
    assert_eq!(pod.shell("a", up), "eth0\neth1\neth2\neth3\n");
    let said = pod.shell("a", PING);
    let (pings, sums) = said.split_once('\n').unwrap();
    assert_eq!(pings, "2 packets received");
    let sums: Vec<_> = sums.lines().collect();
    assert_eq!(sums.len(), 2, "{said}");
    assert_eq!(sums[0], sums[1]);

    // Taken out, it leads nowhere; plugged in again, it goes on.
    pod.machine.guest.unplug_net(2).unwrap();
    let lost = "ping -c 1 -W 1 -q 10.7.0.1 | grep -o '[0-9]* packets received'";
    assert_eq!(pod.shell("a", lost), "0 packets received\n");
    pod.machine.guest.plug_net(2, nic(&tap, Some(MAC))).unwrap();
    assert!(pod.shell("a", PING).starts_with("2 packets received\n"));
    // And in another place.
    pod.machine.guest.unplug_net(2).unwrap();
    pod.shell("a", "ip link set eth2 down");
    pod.machine.guest.plug_net(0, nic(&tap, None)).unwrap();
    pod.shell("a", "ip address add 10.7.0.3/24 dev eth0; ip link set eth0 up");
    assert!(pod.shell("a", PING).starts_with("2 packets received\n"));
    pod.machine.end().unwrap();
}

/// The request for a container in the pod's namespaces.
fn in_pod(name: &str) -> Create {
    let mut create = container(name, shared("root"));
    let linux = serde_json::json!({"namespaces": [
        {"type": "mount"},
        {"type": "network", "path": "/run/ampoule/pod/net"},
        {"type": "ipc", "path": "/run/ampoule/pod/ipc"},
        {"type": "uts", "path": "/run/ampoule/pod/uts"},
        {"type": "pid", "path": "/run/ampoule/pod/pid"},
    ]});
    create.spec.set_linux(Some(serde_json::from_value(linux).unwrap()));
    create
}

/// What a pod's keeper does with interfaces that have come.
fn give(pod: &mut Pod, interfaces: Vec<Interface>) {
    for Interface { guest, tap } in &interfaces {
        pod.machine.guest.plug_net(guest.slot, nic(&tap, Some(guest.mac))).unwrap();
    }
    let interfaces = interfaces.into_iter().map(|interface| interface.guest).collect();
    pod.client.call(&Request::Network { namespace: NetworkNamespace::Pod, interfaces }).unwrap();
}

pub fn is_the_pods() {
    needs_networks!();
    let (bridge, namespace) = (Bridge::new(), Namespace::new());
    bridge.connect(&namespace, "eth0", 2);
    let before = namespace.state();
    let mut pod = Pod::start();
    let root = pod.folder("root");
    busybox(&root);
    pod.share("root", &root, false);
    let sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into();
    let shared = ampoule::agent::message::Pod { hostname: "web-0".into(), sysctls };
    pod.client.call(&Request::Pod(Box::new(shared))).unwrap();
    let (mut joined, interfaces) = network::join(namespace.0.as_fd()).unwrap();
    give(&mut pod, interfaces);
    pod.run(in_pod("a")).unwrap();
    pod.run(in_pod("b")).unwrap();
    let heard = take(bridge.0.listener("10.5.0.1:4000"));
    let said =
        pod.shell("a", "hostname; ls /sys/class/net 2>&1; ip link | cut -d: -f2 | cut -d@ -f1");
    assert!(said.starts_with("web-0\n") && said.contains(" eth0\n"), "{said}");
    assert!(!said.contains("eth1"), "{said}");
    // More than fits into a packet, so that checksums and segments are somebody's work.
    pod.shell("b", "yes 0123456789 | head -n 50000 > /tmp/big; nc -w 20 10.5.0.1 4000 < /tmp/big");
    assert_eq!(heard.join().unwrap(), "0123456789\n".repeat(50_000));
    // Containers see each other's processes, and the first, which is nobody's.
    let said = pod.shell("a", "ps -o args | head -n 2");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].ends_with("pause"), "{said}");

    // One comes late, goes, and comes again.
    bridge.connect(&namespace, "net1", 3);
    namespace.run("ip link set net1 mtu 9000");
    let late = joined.rescan().unwrap();
    assert_eq!(late.len(), 1);
    give(&mut pod, late);
    assert_eq!(pod.shell("b", "ip -o addr show dev net1 | grep -c 10.5.0.3"), "1\n");
    assert_eq!(pod.shell("b", "ip link show net1 | grep -o 'mtu 9000'"), "mtu 9000\n");
    let remove =
        Request::RemoveInterface { namespace: NetworkNamespace::Pod, slot: 1, name: "net1".into() };
    pod.client.call(&remove).unwrap();
    pod.machine.guest.unplug_net(1).unwrap();
    assert_eq!(pod.shell("b", "ip -o link | wc -l"), "2\n");
    pod.delete("a");
    assert!(pod.shell("b", "ping -c 1 -W 20 -q 10.5.0.1").contains("1 packets received"));
    pod.machine.end().unwrap();
    namespace.run("ip link del net1");
    joined.leave().unwrap();
    assert_eq!(namespace.state(), before);
}
