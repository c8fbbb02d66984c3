//! What the kernel has after each call, and what packets make of it.

use super::*;
use crate::network::egress::Egress;
use crate::network::testing::Namespace;

pub fn network(bridge: &str, subnets: &[&str]) -> NetworkRules {
    NetworkRules {
        bridge: bridge.into(),
        subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        masquerade: true,
        internal: false,
        icc: true,
    }
}

pub fn port(tap: &str, bridge: &str, number: u8, addresses: &[&str]) -> PortRules {
    PortRules {
        tap: tap.into(),
        bridge: bridge.into(),
        mac: [2, 0, 0, 0, 0, number],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        egress: Egress::All,
        published: Vec::new(),
    }
}

pub fn published(host: Option<&str>, host_port: u16, to: &str, protocol: Protocol) -> Published {
    let (container, container_port) = to.rsplit_once(':').unwrap();
    Published {
        host: host.map(|host| host.parse().unwrap()),
        host_port,
        container: container.parse().unwrap(),
        container_port: container_port.parse().unwrap(),
        protocol,
    }
}

#[test]
fn what_is_added_is_there_and_goes() {
    let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let show = || host.run("nft -s list ruleset");
    host.run("nft add table inet others; nft add chain inet others mine");
    let others = show();
    let mut firewall = host.within(|| Firewall::open().unwrap());
    assert_eq!(firewall.ports().unwrap(), Vec::<String>::new());
    firewall.remove_port(&port("tap1", "br0", 1, &["10.9.0.2"])).unwrap();
    firewall.remove_network("br0").unwrap();
    firewall.ensure().unwrap();
    let empty = show();
    firewall.ensure().unwrap();
    assert_eq!(show(), empty);
    // As somebody else would who saw nothing a moment ago.
    let mut again = Batch::default();
    layout::ensure(&mut again);
    firewall.socket.commit(&again).unwrap();
    assert_eq!(show(), empty);

    let lonely = port("tap1", "br0", 1, &["10.9.0.2"]);
    let missing = firewall.add_port(&lonely).unwrap_err();
    assert!(matches!(&missing, FirewallError::NoNetwork { bridge, .. } if bridge == "br0"));
    let mut net = network("br0", &["10.9.0.1/24", "fd00:9::1/64"]);
    firewall.add_network(&net).unwrap();
    firewall.add_network(&network("br1", &["10.9.1.1/24", "fd00:9:1::1/64"])).unwrap();
    let with_networks = show();
    firewall.add_network(&net).unwrap();
    assert_eq!(show(), with_networks);
    net.internal = true;
    net.icc = false;
    net.subnets = vec!["10.9.2.0/24".parse().unwrap()];
    firewall.add_network(&net).unwrap();
    let changed = show();
    assert!(changed.contains("10.9.2.0/24") && !changed.contains("10.9.0.0/24"), "{changed}");
    net = network("br0", &["10.9.0.1/24", "fd00:9::1/64"]);
    firewall.add_network(&net).unwrap();
    assert_eq!(show(), with_networks);

    let mut first = port("tap1", "br0", 1, &["10.9.0.2", "fd00:9::2"]);
    first.egress = "public,10.0.0.0/8:443/tcp,[fd00::/8]:53".parse().unwrap();
    for host in [None, Some("127.0.0.1"), Some("0.0.0.0")] {
        let number = if host == Some("0.0.0.0") { 81 } else { 80 };
        first.published.push(published(host, number, "10.9.0.2:8080", Protocol::Tcp));
    }
    first.published.push(published(None, 80, "fd00:9::2:8080", Protocol::Udp));
    first.published.push(published(Some("::1"), 80, "fd00:9::2:8080", Protocol::Sctp));
    firewall.add_port(&first).unwrap();
    let with_port = show();
    // One of a killed keeper.
    firewall.add_port(&first).unwrap();
    assert_eq!(show(), with_port);
    assert!(matches!(firewall.remove_network("br0"), Err(FirewallError::InUse(_))));

    let mut second = port("tap2", "br0", 2, &["10.9.0.3", "fd00:9::3"]);
    second.egress = Egress::None;
    second.published.push(published(None, 80, "fd00:9::3:8080", Protocol::Udp));
    let taken = firewall.add_port(&second).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "port 80/udp of the host is published already, by the container at tap1"
    );
    assert_eq!(show(), with_port);
    second.published.clear();
    firewall.add_port(&second).unwrap();
    assert_eq!(firewall.ports().unwrap(), ["tap1", "tap2"]);
    assert_eq!(firewall.networks().unwrap(), ["br0", "br1"]);
    firewall.remove_port(&second).unwrap();
    firewall.remove_port(&second).unwrap();
    assert_eq!(show(), with_port);
    firewall.remove_port(&first).unwrap();
    assert_eq!(show(), with_networks);
    for bridge in ["br0", "br1", "br0"] {
        firewall.remove_network(bridge).unwrap();
    }
    assert_eq!(show(), empty);
    host.run("nft delete table inet ampoule; nft delete table bridge ampoule");
    assert_eq!(show(), others);
}

#[test]
fn what_cannot_be_added_is_refused() {
    let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let mut firewall = host.within(|| Firewall::open().unwrap());
    for name in ["", "a b", "0123456789abcdef", "a;b", "a/b", "\u{e4}"] {
        let port = port(name, "br0", 1, &["10.9.0.2"]);
        assert!(matches!(firewall.remove_port(&port), Err(FirewallError::Name(_))), "{name}");
    }
    let mut wrong = port("tap1", "br0", 1, &["10.9.0.2"]);
    for bad in [
        published(None, 80, "10.9.0.3:80", Protocol::Tcp),
        published(Some("::1"), 80, "10.9.0.2:80", Protocol::Tcp),
    ] {
        wrong.published = vec![bad];
        let refused = firewall.add_port(&wrong);
        assert!(matches!(refused, Err(FirewallError::Published(at)) if at == bad.container));
    }
}

#[test]
fn of_a_port_all_goes_that_is_there_and_its_own() {
    let Some(host) = Namespace::possible(&["nft", "nsenter"]) else { return };
    let show = || host.run("nft -s list ruleset");
    let mut firewall = host.within(|| Firewall::open().unwrap());
    firewall.ensure().unwrap();
    firewall.add_network(&network("br0", &["10.9.0.1/24", "fd00:9::1/64"])).unwrap();
    let without = show();
    let mut first = port("tap1", "br0", 1, &["10.9.0.2", "fd00:9::2"]);
    first.egress = "public,10.0.0.0/8:443/tcp".parse().unwrap();
    first.published.push(published(None, 80, "10.9.0.2:8080", Protocol::Tcp));
    first.published.push(published(None, 81, "fd00:9::2:8080", Protocol::Udp));

    // Somebody has taken parts of it away, of each kind one.
    firewall.add_port(&first).unwrap();
    host.run(
        "nft delete element bridge ampoule taps { tap1 }
         nft delete element bridge ampoule closed { tap1 }
         nft delete chain bridge ampoule egress-tap1
         nft delete element inet ampoule published4 { tcp . 80 }
         nft delete element inet ampoule egress4 { br0 . 10.9.0.2 }",
    );
    firewall.remove_port(&first).unwrap();
    assert_eq!(show(), without);

    // Another has its address and its port of the host meanwhile: those stay.
    firewall.add_port(&first).unwrap();
    host.run(
        "nft delete element inet ampoule published4 { tcp . 80 }
         nft delete element inet ampoule egress4 { br0 . 10.9.0.2 }",
    );
    let mut second = port("tap2", "br0", 2, &["10.9.0.2"]);
    second.egress = Egress::None;
    second.published.push(published(None, 80, "10.9.0.2:8080", Protocol::Tcp));
    firewall.add_port(&second).unwrap();
    firewall.remove_port(&first).unwrap();
    let others = show();
    assert_eq!(firewall.ports().unwrap(), ["tap2"]);
    for text in ["tcp . 80 comment \"tap2\"", "\"br0\" . 10.9.0.2 comment \"tap2\""] {
        assert!(others.contains(text), "{text} is not in {others}");
    }
    firewall.remove_port(&second).unwrap();
    assert_eq!(show(), without);

    // All of it is gone: nothing to do.
    firewall.add_port(&first).unwrap();
    host.run("nft flush ruleset");
    firewall.remove_port(&first).unwrap();
    assert_eq!(show(), "");
}
