//! What passes between a container and everybody else.

use crate::lab::Lab;
use crate::needs_networks;

/// Sends and takes as much as `echo` of the lab gives back, over TCP and UDP.
const ECHO: &str = r#"
import hashlib, os, socket, threading
for address in ['192.0.2.1', '2001:db8::1']:
    data = os.urandom(4 << 20)
    with socket.create_connection((address, 7)) as tcp:
        threading.Thread(target=lambda: (tcp.sendall(data), tcp.shutdown(socket.SHUT_WR))).start()
        back = b''
        while part := tcp.recv(1 << 16):
            back += part
    print('tcp', back == data)
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.settimeout(2)
    for size in [1, 1400, 9000, 65000]:
        message = os.urandom(size)
        for attempt in range(4):
            # Who sends larger packets than somebody on the way takes learns that by losing one.
            udp.sendto(message, (address, 7))
            try:
                print('udp', size, udp.recv(1 << 16) == message)
                break
            except TimeoutError:
                pass
with socket.create_connection(('192.0.2.1', 8)) as tell:
    print('seen as', tell.recv(100).decode().strip())
"#;

const ECHOED: &str = "\
tcp True
udp 1 True
udp 1400 True
udp 9000 True
udp 65000 True
tcp True
udp 1 True
udp 1400 True
udp 9000 True
udp 65000 True
seen as 192.0.2.2
";

#[test]
fn both_protocols_pass_both_ways_in_both_families() {
    needs_networks!();
    let lab = Lab::with_server();
    assert_eq!(lab.python(&[], ECHO), ECHOED);
    let ping =
        "for to in 10.201.0.1 192.0.2.1 2001:db8::1; do ping -c 2 -A -q $to | grep -c ' 0%'; done";
    lab.shell(&[], "busybox", ping).gives(0, "1\n1\n1\n");
}

#[test]
fn large_and_small_packets_pass() {
    needs_networks!();
    let lab = Lab::with_server();
    for mtu in ["9000", "1280"] {
        lab.ok(&["network", "create", "-o", &format!("mtu={mtu}"), &format!("of{mtu}")]);
        let network = format!("of{mtu}");
        let options = ["--network", &network];
        assert_eq!(lab.python(&options, ECHO), ECHOED, "{mtu}");
        lab.shell(&options, "busybox", "cat /sys/class/net/eth0/mtu").gives(0, &format!("{mtu}\n"));
    }
}

#[test]
fn several_processors_have_queues_of_their_own() {
    needs_networks!();
    let lab = Lab::with_server();
    assert_eq!(lab.python(&["--cpus", "2"], ECHO), ECHOED);
    let queues = "ls -d /sys/class/net/eth0/queues/tx-* | wc -l";
    lab.shell(&["--cpus", "2"], "busybox", queues).gives(0, "2\n");
}

#[test]
fn a_thousand_connections_are_open_at_once() {
    needs_networks!();
    let lab = Lab::with_server();
    let program = r#"
import socket
all = [socket.create_connection(('192.0.2.1', 7)) for _ in range(1000)]
for n, one in enumerate(all):
    one.sendall(n.to_bytes(4, 'big'))
print(sum(int.from_bytes(one.recv(4), 'big') == n for n, one in enumerate(all)))
"#;
    assert_eq!(lab.python(&["--ulimit", "nofile=4096"], program), "1000\n");
}

#[test]
fn guests_of_a_network_reach_each_other() {
    needs_networks!();
    let lab = Lab::new();
    lab.ok(&[
        "run",
        "-d",
        "--name",
        "server",
        "busybox",
        "sh",
        "-c",
        "while :; do nc -l -p 5000 -e /bin/cat; done",
    ]);
    let settings = lab.settings("server");
    // It may take a moment to listen.
    for key in ["IPAddress", "GlobalIPv6Address"] {
        let address = settings[key].as_str().unwrap();
        let ask = format!(
            "for n in 1 2 3 4 5 6 7 8 9; do echo hello | nc -w 5 {address} 5000 && break; sleep 0.2; done"
        );
        lab.shell(&[], "busybox", &ask).gives(0, "hello\n");
    }
    lab.ok(&["rm", "-f", "server"]);
}

#[test]
fn a_namespace_of_the_host_is_the_containers() {
    needs_networks!();
    let lab = Lab::new();
    let space = crate::support::namespaces::Namespace::new();
    lab.host(&format!(
        "ip link add in0 type veth peer name eth7 netns {}; ip address add 198.51.100.1/24 dev in0; \
         ip link set in0 up",
        space.path()
    ));
    space.run("ip address add 198.51.100.2/24 dev eth7; ip link set eth7 up");
    let network = format!("netns:{}", space.path());
    let script = "ip -o -4 address show dev eth7 | grep -o 198.51.100.2/24; ping -c 1 -q 198.51.100.1 | grep -c ' 0%'";
    lab.shell(&["--network", &network], "busybox", script).gives(0, "198.51.100.2/24\n1\n");
}
