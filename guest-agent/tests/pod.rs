//! Pods, and network interfaces of pods and containers. Devices of the machine are played by
//! ends of pairs of interfaces in the agent's namespace.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod sandbox;

use ampoule_protocol::message::{
    ErrorKind, Interface, Neighbour, NetworkNamespace, Pod, ProcessId, Request, Route, Stdio,
};
use sandbox::{Sandbox, can_run, changed};
use serde_json::{Value, json};

/// Makes and starts a container in the pod, which sleeps.
fn sleeper(sandbox: &Sandbox, name: &str, kinds: &[(&str, &str)]) {
    let rpc = sandbox.rpc();
    let mut request = sandbox.request(name, &[], Stdio::default());
    request.spec = changed(&["sleep", "1000"], |spec| in_pod(spec, kinds));
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init(name)));
}

const SHARED: [(&str, &str); 3] = [("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
const WITH_PIDS: [(&str, &str); 4] =
    [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];

fn in_pod(spec: &mut Value, kinds: &[(&str, &str)]) {
    spec.as_object_mut().unwrap().remove("hostname");
    for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if let Some((_, file)) = kinds.iter().find(|(kind, _)| namespace["type"] == *kind) {
            namespace["path"] = json!(format!("/run/ampoule/pod/{file}"));
        }
    }
}

/// Runs a script in a container that runs: what it wrote.
fn inside(sandbox: &Sandbox, container: &str, script: &str) -> String {
    let (stdio, pipes) = sandbox.pipes();
    let rpc = sandbox.rpc();
    let name = sandbox.token();
    let exec = sandbox::exec(container, &name, &["sh", "-c", script], stdio);
    rpc.created(Request::Exec(Box::new(exec)));
    let status = rpc.wait(sandbox::process(container, &name));
    let (out, err) = (sandbox::text(pipes.stdout), sandbox::text(pipes.stderr));
    assert_eq!((status.code, err.as_str()), (0, ""), "{script}: {out}");
    out
}

fn interface(slot: u8, name: &str) -> Interface {
    let cidrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let route = |destination: &str, gateway: Option<&str>| Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        source: None,
        metric: None,
        scope: if gateway.is_some() { 0 } else { 253 },
        on_link: false,
    };
    Interface {
        slot,
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 7, slot],
        mtu: Some(1400),
        addresses: cidrs(&[&format!("10.9.{slot}.2/24"), &format!("fd00:9:{slot}::2/64")]),
        routes: vec![
            Route { metric: Some(7), ..route("172.30.0.0/16", Some(&format!("10.9.{slot}.1"))) },
            route(&format!("10.9.{slot}.0/24"), None),
            Route { on_link: true, ..route("172.31.0.0/16", Some("192.0.2.1")) },
            route(&format!("fd00:9:{slot}::/64"), None),
            route(&format!("fd00:1{slot}::/64"), Some(&format!("fd00:9:{slot}::1"))),
        ],
        neighbours: vec![Neighbour {
            address: format!("10.9.{slot}.1").parse().unwrap(),
            mac: [2, 0, 0, 0, 8, slot],
        }],
    }
}

#[test]
fn containers_of_a_pod_share_its_namespaces() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "7"), ("kernel.shmmni", "99")];
    let pod = Pod {
        hostname: "web-0".into(),
        sysctls: sysctls.map(|(name, value)| (name.into(), value.into())).into(),
    };
    rpc.done(Request::Pod(Box::new(pod.clone())));
    let (kind, _) = rpc.error(Request::Pod(Box::new(pod)));
    assert_eq!(kind, ErrorKind::AlreadyExists);
    sleeper(&sandbox, "a", &SHARED);
    sleeper(&sandbox, "b", &WITH_PIDS);
    sleeper(&sandbox, "c", &WITH_PIDS);
    let namespaces = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname; \
                      cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; \
                      cat /sys/class/net/lo/flags; ls /sys/class/net";
    let [a, b, c] = ["a", "b", "c"].map(|name| inside(&sandbox, name, namespaces));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(b, c);
    assert_eq!(lines(&a)[..3], lines(&b)[..3]);
    assert_ne!(lines(&a)[3], lines(&b)[3]);
    assert_eq!(lines(&a)[4..], ["web-0", "7", "99", "0x9", "lo"]);
    // Its own namespaces are the agent's still.
    assert_ne!(sandbox.read("/proc/sys/kernel/hostname").trim(), "web-0");
    // The first process of the pod is nobody's, and cannot be ended from inside.
    let script = "kill -9 1; kill -15 1; kill -1 1; tr '\\0' ' ' < /proc/1/cmdline; \
                  (sh -c 'sleep 0.01 & exec true'); sleep 0.3; ps -o stat | grep -c Z || true";
    let out = inside(&sandbox, "c", script);
    assert!(out.ends_with("pause 0\n"), "{out}");
    rpc.kill("b", 9);
    rpc.wait(ProcessId::init("b"));
    rpc.done(Request::Delete { container: "b".into() });
    assert_eq!(inside(&sandbox, "c", namespaces), c);
}

#[test]
fn sysctls_of_the_guest_are_not_a_pods() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let pod = |name: &str| Pod {
        hostname: String::new(),
        sysctls: [(name.to_owned(), "1".to_owned())].into(),
    };
    for name in ["kernel.core_pattern", "vm.overcommit_memory", "net/../kernel/sysrq"] {
        let (kind, message) = rpc.error(Request::Pod(Box::new(pod(name))));
        assert_eq!(kind, ErrorKind::InvalidArgument, "{message}");
        assert!(message.contains(name), "{message}");
    }
    // What failed has not made one.
    rpc.done(Request::Pod(Box::new(pod("net.ipv4.ip_forward"))));
}

#[test]
fn interfaces_come_and_go() {
    if !can_run() {
        return;
    }
    let Some(sandbox) = Sandbox::start_with_devices(2) else { return };
    let rpc = sandbox.rpc();
    rpc.done(Request::Pod(Box::default()));
    sleeper(&sandbox, "a", &SHARED);
    let add = |interfaces: &[Interface]| Request::Network {
        namespace: NetworkNamespace::Pod,
        interfaces: interfaces.to_vec(),
    };
    // All or none: the second has no device.
    let (kind, message) = rpc.error(add(&[interface(0, "web"), interface(7, "none")]));
    assert_eq!(kind, ErrorKind::NotFound, "{message}");
    // The second is refused when the first is there already.
    let mut wrong = interface(1, "wrong");
    wrong.routes[0].gateway = Some("203.0.113.9".parse().unwrap());
    let (_, message) = rpc.error(add(&[interface(0, "web"), wrong]));
    assert!(message.contains("172.30.0.0/16"), "{message}");
    assert_eq!(inside(&sandbox, "a", "ls /sys/class/net"), "lo\n");

    rpc.done(add(&[interface(0, "web")]));
    rpc.done(add(&[interface(1, "eth0")]));
    let (kind, _) = rpc.error(add(&[interface(1, "again")]));
    assert_eq!(kind, ErrorKind::NotFound);
    let show = "cat /sys/class/net/web/address /sys/class/net/web/mtu; ip addr show dev web; \
                ip route show dev web; ip -6 route show dev web; ip neigh show dev web; ls /sys/class/net";
    let out = inside(&sandbox, "a", show);
    for part in [
        "02:00:00:00:07:00\n1400\n",
        ",UP",
        "inet 10.9.0.2/24 brd 10.9.0.255",
        "inet6 fd00:9::2/64",
        "172.30.0.0/16 via 10.9.0.1 dev web  metric 7",
        "10.9.0.0/24 dev web scope link",
        "172.31.0.0/16 via 192.0.2.1 dev web onlink",
        "fd00:10::/64 via fd00:9::1",
        "10.9.0.1 lladdr 02:00:00:00:08:00",
        "eth0\nlo\nweb\n",
    ] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
    assert_eq!(out.matches("10.9.0.0/24").count(), 1, "{out}");

    let remove = |slot, name: &str| Request::RemoveInterface {
        namespace: NetworkNamespace::Pod,
        slot,
        name: name.into(),
    };
    rpc.done(remove(0, "web"));
    let (kind, _) = rpc.error(remove(0, "web"));
    assert_eq!(kind, ErrorKind::NotFound);
    // Its device is another one's now: a container's of its own.
    let mut request = sandbox.request("own", &[], Stdio::default());
    request.spec = changed(&["sleep", "1000"], |_| ());
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Network {
        namespace: NetworkNamespace::Container("own".into()),
        interfaces: vec![interface(0, "eth0")],
    });
    rpc.done(Request::Start(ProcessId::init("own")));
    let out = inside(&sandbox, "own", "ls /sys/class/net; ip -o addr show dev eth0");
    assert!(out.starts_with("eth0\nlo\n") && out.contains("10.9.0.2/24"), "{out}");
    assert_eq!(inside(&sandbox, "a", "ls /sys/class/net"), "eth0\nlo\n");
}

#[test]
fn interfaces_need_a_namespace_that_is_not_the_guests() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let add = |namespace| Request::Network { namespace, interfaces: Vec::new() };
    rpc.error(add(NetworkNamespace::Pod));
    let (kind, _) = rpc.error(add(NetworkNamespace::Container("none".into())));
    assert_eq!(kind, ErrorKind::NotFound);
    let mut request = sandbox.request("c", &[], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    });
    rpc.created(Request::Create(Box::new(request)));
    let (kind, _) = rpc.error(add(NetworkNamespace::Container("c".into())));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    // A pod's containers need one.
    let mut request = sandbox.request("p", &[], Stdio::default());
    request.spec = changed(&["true"], |spec| in_pod(spec, &WITH_PIDS));
    let (kind, _) = rpc.error(Request::Create(Box::new(request)));
    assert_eq!(kind, ErrorKind::NotFound);
}

#[test]
fn what_a_template_has_prepared_is_the_first_networked_containers() {
    if !can_run() {
        return;
    }
    let Some(mut sandbox) = Sandbox::start_with_devices(1) else { return };
    let rpc = sandbox.woken_from_template(true);
    // Who gets no interface has none.
    sleeper(&sandbox, "alone", &[]);
    assert_eq!(inside(&sandbox, "alone", "ls /sys/class/net"), "lo\n");
    let start = |name: &str, id: u8| {
        let mut request = sandbox.request(name, &[], Stdio::default());
        request.spec = changed(&["sleep", "1000"], |_| ());
        request.networked = true;
        rpc.created(Request::Create(Box::new(request)));
        let mac = [2, 0, 0, 0, 7, id];
        rpc.done(Request::Network {
            namespace: NetworkNamespace::Container(name.into()),
            interfaces: vec![Interface { mac, ..interface(0, "eth0") }],
        });
        rpc.done(Request::Start(ProcessId::init(name)));
        let show = "ls /sys/class/net; ip addr show dev eth0; ip route show dev eth0";
        let out = inside(&sandbox, name, show);
        let mac = format!("02:00:00:00:07:{id:02x}");
        let own = format!("inet6 fe80::ff:fe00:7{id:02x}/64");
        for part in
            ["eth0\nlo\n", ",UP", &mac, "inet 10.9.0.2/24", "inet6 fd00:9::2/64", &own, "mtu 1400"]
        {
            assert!(out.contains(part), "no {part:?} in {out}");
        }
    };
    start("first", 1);
    rpc.done(Request::RemoveInterface {
        namespace: NetworkNamespace::Container("first".into()),
        slot: 0,
        name: "eth0".into(),
    });
    // The next one makes its own.
    start("second", 2);
    assert_eq!(inside(&sandbox, "first", "ls /sys/class/net"), "lo\n");
}

#[test]
fn what_a_template_has_prepared_is_in_nobodys_way() {
    if !can_run() {
        return;
    }
    let Some(mut sandbox) = Sandbox::start_with_devices(1) else { return };
    let rpc = sandbox.woken_from_template(true);
    rpc.done(Request::Pod(Box::default()));
    sleeper(&sandbox, "a", &SHARED);
    rpc.done(Request::Network {
        namespace: NetworkNamespace::Pod,
        interfaces: vec![interface(0, "web")],
    });
    assert_eq!(inside(&sandbox, "a", "ls /sys/class/net"), "lo\nweb\n");
}
