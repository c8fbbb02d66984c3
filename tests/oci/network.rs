//! Networks that were laid on the host: a container has them, and nothing of it stays.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::lab::{Lab, await_end, until};
use crate::needs_networks;
use crate::support::namespaces::{Bridge, Namespace, take};
use crate::support::skip;

fn join(lab: &Lab, namespace: &str) {
    lab.change(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|n| n["type"] == "network").unwrap();
        network["path"] = json!(namespace);
    });
}

/// Speaks to whoever listens there, once somebody does.
fn tell(namespace: &Namespace, address: &str, text: &str) {
    namespace.within(|| {
        let mut stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };
        stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
    });
}

#[test]
fn a_named_namespace_is_the_containers_network() {
    needs_networks!();
    let (bridge, pod) = (Bridge::new(), Namespace::new());
    pod.run("ip link set lo up");
    bridge.connect(&pod, "eth0", 2);
    bridge.connect(&pod, "net1", 3);
    pod.run(
        "ip addr del 10.5.0.3/24 dev net1; ip route add default via 10.5.0.1 dev eth0 metric 7",
    );
    let before = pod.state();
    let (first, second) =
        (bridge.0.listener("10.5.0.1:4000"), bridge.0.listener("[fd00:5::1]:4000"));
    let (first, second) = (take(first), take(second));
    let lab = Lab::shell(
        "cd /sys/class/net; for i in *; do echo $i $(cat $i/mtu $i/address); done
         busybox ip route; busybox ip addr show dev eth0
         echo by 4 | busybox nc 10.5.0.1 4000; echo by 6 | busybox nc fd00:5::1 4000
         busybox nc -l -p 5000; echo end",
    );
    join(&lab, &pod.path());
    let created = lab.create("c", &[]);
    // What callers find by the pid is that namespace.
    let theirs = Namespace::of(lab.pid("c"));
    assert!(theirs.run("ip -o link").contains("net1"));
    assert_ne!(pod.state(), before);
    lab.ok(&["start", "c"]);
    assert_eq!(
        (first.join().unwrap().as_str(), second.join().unwrap().as_str()),
        ("by 4\n", "by 6\n")
    );
    tell(&bridge.0, "10.5.0.2:5000", "from the host\n");
    let mut said = String::new();
    let mut created = created;
    created.stdout.read_to_string(&mut said).unwrap();
    for part in [
        "eth0 1400 02:00:00:00:05:02\n",
        "net1 1400 02:00:00:00:05:03\n",
        "default via 10.5.0.1 dev eth0  metric 7",
        "10.5.0.0/24 dev eth0 scope link  src 10.5.0.2",
        "inet6 fd00:5::2/64 scope global",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(said.ends_with("from the host\nend\n"), "{said}");
    assert!(!said.contains("eth1") && !said.contains("eth2"), "{said}");
    until(|| lab.status("c") == "stopped");
    assert_eq!(pod.state(), before);
    lab.ok(&["delete", "c"]);
}

#[test]
fn what_is_laid_between_create_and_start_is_the_containers_too() {
    needs_networks!();
    let bridge = Bridge::new();
    let listener = take(bridge.0.listener("10.5.0.1:4000"));
    let lab = Lab::shell("busybox ip -o addr; echo late | busybox nc 10.5.0.1 4000");
    let mut created = lab.create("c", &[]);
    let own = Namespace::of(lab.pid("c"));
    bridge.connect(&own, "eth0", 9);
    lab.ok(&["start", "c"]);
    assert_eq!(listener.join().unwrap(), "late\n");
    let mut said = String::new();
    created.stdout.read_to_string(&mut said).unwrap();
    assert!(said.contains("eth0    inet 10.5.0.9/24"), "{said}");
    lab.ok(&["delete", "--force", "c"]);
    until(|| !own.state().contains("ampoule"));
    assert!(!own.state().contains("ingress"), "{}", own.state());
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn nothing_of_a_killed_keeper_stays_in_a_namespace() {
    needs_networks!();
    let (bridge, pod) = (Bridge::new(), Namespace::new());
    bridge.connect(&pod, "eth0", 2);
    let before = pod.state();
    let lab = Lab::shell("while :; do sleep 1; done");
    join(&lab, &pod.path());
    let _created = lab.start("c");
    // It is one sandbox's.
    lab.output(&["create", "d"]).fails(1, &["eth0 is another sandbox's already"]);
    assert_eq!(lab.status("c"), "running");
    let pid = lab.pid("c");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    await_end(pid);
    lab.ok(&["delete", "c"]);
    assert_eq!(pod.state(), before);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn the_hosts_network_and_what_is_none_are_refused_by_name() {
    needs_networks!();
    for (path, words) in [
        ("/proc/1/ns/net", &["host's own network namespace"][..]),
        ("/proc/self/ns/uts", &["/proc/self/ns/uts"]),
        ("/run/netns/no-such", &["/run/netns/no-such", "No such file"]),
    ] {
        let lab = Lab::new(&["true"]);
        join(&lab, path);
        lab.output(&["create", "c"]).fails(1, words);
        assert_eq!(lab.left(), [""; 0]);
    }
    // Five are one too many.
    let (bridge, pod) = (Bridge::new(), Namespace::new());
    (0..5).for_each(|n| bridge.connect(&pod, &format!("e{n}"), 20 + n));
    let before = pod.state();
    let lab = Lab::new(&["true"]);
    join(&lab, &pod.path());
    lab.output(&["create", "c"]).fails(1, &["e0, e1, e2, e3, e4"]);
    assert_eq!((pod.state(), lab.left()), (before, Vec::new()));
}

/// Where CNI's plugins are.
const CNI: &str = "/usr/lib/cni";

/// Runs a plugin of CNI as container engines do.
#[track_caller]
fn cni(bridge: &Bridge, pod: &Namespace, verb: &str, config: &Value, lab: &Lab) -> Value {
    let data = lab.text("cni");
    let mut config = config.clone();
    config["cniVersion"] = json!("0.4.0");
    config["name"] = json!("lab");
    config["ipam"] = json!({
        "type": "host-local", "dataDir": data, "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": "10.6.0.0/24"}], [{"subnet": "fd00:6::/64"}]],
    });
    let plugin = config["type"].as_str().unwrap().to_owned();
    let mut child = Command::new("nsenter")
        .args([&format!("--net={}", bridge.0.path()), &format!("{CNI}/{plugin}")])
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "c")
        .env("CNI_NETNS", pod.path())
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", CNI)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{plugin} {verb}: {said}");
    serde_json::from_str(&said).unwrap_or_default()
}

#[test]
fn networks_of_cni_are_the_containers() {
    needs_networks!();
    let plugins = ["bridge", "ptp", "host-local"].map(|plugin| Path::new(CNI).join(plugin));
    if !plugins.iter().all(|plugin| plugin.exists()) {
        return skip("needs the plugins of CNI");
    }
    for config in [
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1380}),
        json!({"type": "ptp", "mtu": 1380}),
    ] {
        let (bridge, pod) = (Bridge::new(), Namespace::new());
        let lab = Lab::shell(
            "cat /sys/class/net/eth0/mtu; busybox ip route | grep default
             for to in $HOST4 $HOST6; do echo hello | busybox nc $to 4000; done",
        );
        let laid = cni(&bridge, &pod, "ADD", &config, &lab);
        let gateways: Vec<_> = laid["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| ip["gateway"].as_str().unwrap())
            .collect();
        let listeners = [
            bridge.0.listener(&format!("{}:4000", gateways[0])),
            bridge.0.listener(&format!("[{}]:4000", gateways[1])),
        ];
        let taken = listeners.map(take);
        join(&lab, &pod.path());
        lab.change(|spec| {
            let environment = spec["process"]["env"].as_array_mut().unwrap();
            environment.push(json!(format!("HOST4={}", gateways[0])));
            environment.push(json!(format!("HOST6={}", gateways[1])));
        });
        let before = pod.state();
        let done = lab.output(&["run", "c"]);
        assert!(done.stdout.starts_with("1380\ndefault via 10.6.0.1 dev eth0"), "{done:?}");
        assert_eq!(taken.map(|taken| taken.join().unwrap()), ["hello\n", "hello\n"]);
        assert_eq!(pod.state(), before);
        cni(&bridge, &pod, "DEL", &config, &lab);
        assert!(fs::exists(lab.path("cni")).unwrap());
    }
}
