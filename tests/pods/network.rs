//! A tap that a guest gets while it runs.

use std::os::fd::AsFd;

use ampoule::sandbox::SandboxError;
use ampoule::vmm::devices::virtio::net;
use nix::sched::{CloneFlags, unshare};

use crate::needs_sandboxes;
use crate::pod::{Pod, busybox, container, shared, tool};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Both ways, and what would not fit into a frame.
const PING: &str = "ping -c 2 -W 20 -q 10.7.0.1 | grep -o '2 packets received'
    nc -w 20 10.7.0.1 5000 < /bin/busybox | cksum; cksum < /bin/busybox";

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
    let refused = guest.plug_net(4, tap.as_fd(), None).unwrap_err();
    assert!(
        matches!(&refused, SandboxError::Refused(why) if why.contains("no Net(4)")),
        "{refused}"
    );
    let refused = guest.unplug_net(2).unwrap_err();
    assert!(matches!(&refused, SandboxError::Refused(why) if why.contains("nothing")), "{refused}");
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(guest.plug_net(2, null.as_fd(), None), Err(SandboxError::Refused(_))));

    guest.plug_net(2, tap.as_fd(), Some(MAC)).unwrap();
    let refused = guest.plug_net(2, tap.as_fd(), None).unwrap_err();
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
    pod.machine.guest.plug_net(2, tap.as_fd(), Some(MAC)).unwrap();
    assert!(pod.shell("a", PING).starts_with("2 packets received\n"));
    // And in another place.
    pod.machine.guest.unplug_net(2).unwrap();
    pod.shell("a", "ip link set eth2 down");
    pod.machine.guest.plug_net(0, tap.as_fd(), None).unwrap();
    pod.shell("a", "ip address add 10.7.0.3/24 dev eth0; ip link set eth0 up");
    assert!(pod.shell("a", PING).starts_with("2 packets received\n"));
    pod.machine.end().unwrap();
}
