//! A host of a test's own, and what is outside of it.

use std::ops::Deref;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::support::Ampoule;
use crate::support::namespaces::Namespace;

/// Asks a server of HTTP, which may take a moment to be there.
pub const GET: &str = r#"
import sys, time, urllib.request
for attempt in range(100):
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode().strip())
        break
    except OSError as error:
        last = error
        time.sleep(0.1)
else:
    raise last
"#;

/// Echoes what it gets at TCP and UDP port 7 of both families; tells at port 8 whom it sees.
const SERVER: &str = r#"
import select, socket, threading
def tcp(port, answer):
    listener = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    def serve():
        while True:
            threading.Thread(target=answer, args=listener.accept(), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
def echo(client, peer):
    while data := client.recv(1 << 16):
        client.sendall(data)
    client.close()
def tell(client, peer):
    client.sendall((peer[0].replace('::ffff:', '') + '\n').encode())
    client.close()
tcp(7, echo); tcp(8, tell)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(('::', 7))
print('ready', flush=True)
while True:
    data, peer = udp.recvfrom(1 << 16)
    udp.sendto(data, peer)
"#;

/// The host: a network namespace that the calling thread is in, with all that it starts.
pub struct Lab {
    ampoule: Ampoule,
    /// What is beyond the host: 192.0.2.1 and 2001:db8::1, where there is a server.
    pub outside: Namespace,
    server: Option<Child>,
}

impl Lab {
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let outside = Namespace::new();
        let ampoule = Ampoule::networked();
        let lab = Self { ampoule, outside, server: None };
        lab.host(&format!(
            "ip link set lo up; \
             ip link add out0 mtu 9000 type veth peer name out1 mtu 9000 netns {}; \
             ip address add 192.0.2.2/24 dev out0; \
             ip address add 2001:db8::2/64 dev out0 nodad; \
             ip link set out0 up; \
             ip route add default via 192.0.2.1; \
             ip route add default via 2001:db8::1",
            lab.outside.path()
        ));
        lab.outside.run(
            "ip link set lo up; \
             ip address add 192.0.2.1/24 dev out1; \
             ip address add 2001:db8::1/64 dev out1 nodad; \
             ip link set out1 up",
        );
        lab
    }

    /// With the server outside.
    pub fn with_server() -> Self {
        let mut lab = Self::new();
        let mut server = Command::new("nsenter")
            .args([&format!("--net={}", lab.outside.path()), "python3", "-c", SERVER])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        crate::support::read_until(server.stdout.as_mut().unwrap(), "ready\n");
        lab.server = Some(server);
        lab
    }

    /// Runs a shell script on the host: what it wrote.
    #[track_caller]
    pub fn host(&self, script: &str) -> String {
        let output =
            Command::new("sh").args(["-ec", script]).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a python program in a new container: what it wrote.
    #[track_caller]
    pub fn python(&self, options: &[&str], program: &str) -> String {
        let args = [&["run", "--rm"], options, &["debian", "python3", "-c", program]].concat();
        self.ok(&args)
    }

    /// What the host has of a container's network.
    pub fn settings(&self, container: &str) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(&self.ok(&["inspect", container])).unwrap();
        all[0]["NetworkSettings"].clone()
    }

    /// Interfaces of the host whose names begin like this.
    pub fn interfaces(&self, beginning: &str) -> Vec<String> {
        let all = self.host("ip -j link");
        let all: serde_json::Value = serde_json::from_str(&all).unwrap();
        let names = all.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap());
        names.filter(|name| name.starts_with(beginning)).map(str::to_owned).collect()
    }
}

impl Deref for Lab {
    type Target = Ampoule;

    fn deref(&self) -> &Ampoule {
        &self.ampoule
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
