//! The rules of one container's port. Pure.

use std::net::{IpAddr, Ipv6Addr};

use super::layout::*;
use super::network;
use super::rules::{PortRules, Protocol, Published};
use super::words::{self, *};
use crate::network::egress::{Destination, Egress};
use crate::network::nft::{Batch, Chain, Data, Element, Table, Verdict};

/// Sets that have elements of ports.
pub const SETS: [(Table, &str); 15] = [
    (BRIDGE, TAPS),
    (BRIDGE, MACS),
    (BRIDGE, ADDRESSES4),
    (BRIDGE, ADDRESSES6),
    (BRIDGE, FORWARDS),
    (BRIDGE, CLOSED),
    (INET, TAPS),
    (INET, EGRESS4),
    (INET, EGRESS6),
    (INET, PUBLISHED4),
    (INET, PUBLISHED4_AT),
    (INET, PUBLISHED6),
    (INET, PUBLISHED6_PORT),
    (INET, PUBLISHED6_AT),
    (INET, PUBLISHED6_AT_PORT),
];

/// What was asked for by some messages of a batch.
#[derive(Debug, Default)]
pub struct Added {
    /// The network's chain.
    pub network: usize,
    /// For each published port the first message, its set and its key.
    pub published: Vec<(usize, Published, &'static str, Vec<u8>)>,
}

/// The chain of a port whose egress is its own, in both tables.
fn egress_chain(tap: &str) -> String {
    format!("egress-{tap}")
}

/// The address that Linux gives an interface by its hardware address.
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

/// Adds what a port has. All of it is new.
pub fn add(batch: &mut Batch, port: &PortRules) -> Added {
    let tap = name(&port.tap);
    let of_tap = |address: IpAddr| [tap.clone(), octets(address)].concat();
    // In registers, six bytes are followed by two of nothing.
    let mac = [&tap[..], &port.mac, &[0; 2]].concat();
    batch.add_new_element(BRIDGE, TAPS, &Element::new(tap.clone()));
    let past_bridge = Element { comment: Some(port.tap.clone()), ..Element::new(tap.clone()) };
    batch.add_new_element(INET, TAPS, &past_bridge);
    batch.add_new_element(BRIDGE, MACS, &Element::new(mac));
    let own = link_local(port.mac).into();
    for address in addresses(port, own) {
        let set = if address.is_ipv4() { ADDRESSES4 } else { ADDRESSES6 };
        batch.add_new_element(BRIDGE, set, &Element::new(of_tap(address)));
    }
    let network = batch.len();
    let to = Data::Verdict(Verdict::Jump(network::chain(&port.bridge)));
    batch.add_new_element(BRIDGE, FORWARDS, &Element::with(tap.clone(), to));
    add_egress(batch, port, own);
    let published = port.published.iter().map(|published| {
        let index = batch.len();
        let (set, key) = publish(batch, &port.tap, published);
        (index, *published, set, key)
    });
    Added { network, published: published.collect() }
}

/// Each once.
fn addresses(port: &PortRules, own: IpAddr) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = port.addresses.iter().copied().chain([own]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn add_egress(batch: &mut Batch, port: &PortRules, own: IpAddr) {
    let chain = egress_chain(&port.tap);
    let (beyond, neighbours) = match &port.egress {
        Egress::All => return,
        Egress::None => (Verdict::Goto(REFUSE.into()), Verdict::Goto(TO_NEIGHBOURS.into())),
        Egress::Some { destinations, .. } if destinations.is_empty() => {
            (Verdict::Jump(PUBLIC.into()), Verdict::Goto(TO_NEIGHBOURS.into()))
        }
        Egress::Some { public, destinations } => {
            add_chains(batch, &chain, *public, destinations);
            (Verdict::Jump(chain.clone()), Verdict::Goto(chain))
        }
    };
    let closed = Element::with(name(&port.tap), Data::Verdict(neighbours));
    batch.add_new_element(BRIDGE, CLOSED, &closed);
    for address in addresses(port, own) {
        let set = if address.is_ipv4() { EGRESS4 } else { EGRESS6 };
        let key = [name(&port.bridge), octets(address)].concat();
        let element = Element::with(key, Data::Verdict(beyond.clone()));
        batch.add_new_element(INET, set, &Element { comment: Some(port.tap.clone()), ..element });
    }
}

fn add_chains(batch: &mut Batch, chain: &str, public: bool, destinations: &[Destination]) {
    for table in [BRIDGE, INET] {
        batch.add_chain(table, Chain { name: chain, hook: None });
        // One may be left that nobody leads to.
        batch.flush_chain(table, chain);
    }
    batch.add_rule(BRIDGE, chain, &jump(REPLIES));
    for asked in name_server() {
        batch.add_rule(INET, chain, &rule([asked, back()]));
    }
    for destination in destinations {
        let (to, prefix) = (destination.to().address(), destination.to().prefix());
        let type_of = if to.is_ipv4() { IPV4 } else { IPV6 };
        let neighbour = || rule([ether_type(type_of), is_for(to, prefix)]);
        let opened = || rule([is_ip(to.is_ipv6()), opened_to(to, prefix)]);
        let Some((first, last)) = destination.ports() else {
            let of = || destination.protocol().map(|of| protocol(of.number())).unwrap_or_default();
            batch.add_rule(BRIDGE, chain, &rule([neighbour(), of(), accept()]));
            batch.add_rule(INET, chain, &rule([opened(), of(), back()]));
            continue;
        };
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        for of in all.into_iter().filter(|of| destination.protocol().is_none_or(|one| one == *of)) {
            let of = || protocol(of.number());
            let ports = is_for_ports(first, last);
            batch.add_rule(BRIDGE, chain, &rule([neighbour(), of(), ports, accept()]));
            let ports = opened_to_ports(first, last);
            batch.add_rule(INET, chain, &rule([opened(), of(), ports, back()]));
        }
    }
    batch.add_rule(BRIDGE, chain, &words::drop());
    batch.add_rule(INET, chain, &goto(if public { PUBLIC } else { REFUSE }));
}

/// Which set tells where it leads, and by which key.
fn publish(batch: &mut Batch, tap: &str, published: &Published) -> (&'static str, Vec<u8>) {
    let host = published.host.filter(|host| !host.is_unspecified());
    // Each part begins at a multiple of four bytes.
    let mut key = host.map(octets).unwrap_or_default();
    key.extend([published.protocol.number(), 0, 0, 0]);
    key.extend(published.host_port.to_be_bytes());
    key.extend([0; 2]);
    let port = [&published.container_port.to_be_bytes()[..], &[0; 2]].concat();
    let address = octets(published.container);
    let mut add = |set, data| {
        let element = Element::with(key.clone(), Data::Value(data));
        batch.add_new_element(INET, set, &Element { comment: Some(tap.to_owned()), ..element });
    };
    let set = match (published.container, host) {
        (IpAddr::V4(_), to) => {
            let set = if to.is_some() { PUBLISHED4_AT } else { PUBLISHED4 };
            add(set, [address, port].concat());
            return (set, key);
        }
        (IpAddr::V6(_), Some(_)) => [PUBLISHED6_AT, PUBLISHED6_AT_PORT],
        (IpAddr::V6(_), None) => [PUBLISHED6, PUBLISHED6_PORT],
    };
    let [addresses, ports] = set;
    add(addresses, address);
    add(ports, published.container_port.to_be_bytes().into());
    (addresses, key)
}

/// Whether an element is a port's.
fn is_own(tap: &str, table: Table, element: &Element) -> bool {
    if table == BRIDGE {
        element.key.starts_with(&name(tap))
    } else {
        element.comment.as_deref() == Some(tap)
    }
}

/// Removes what there is of a port.
pub fn remove(batch: &mut Batch, tap: &str, there: &[(Table, &'static str, Vec<Element>)]) {
    let chain = egress_chain(tap);
    let mut chains = Vec::new();
    for (table, set, elements) in there {
        for element in elements.iter().filter(|element| is_own(tap, *table, element)) {
            batch.delete_element(*table, set, element);
            let led_to =
                matches!(&element.data, Some(Data::Verdict(Verdict::Goto(to))) if *to == chain);
            if led_to && !chains.contains(table) {
                chains.push(*table);
            }
        }
    }
    for table in chains {
        batch.delete_chain(table, &chain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_makes_its_own_address_of_the_hardwares() {
        assert_eq!(link_local([2, 0, 0, 0, 5, 0x0a]).to_string(), "fe80::ff:fe00:50a");
        assert_eq!(
            link_local([0x52, 0x54, 0, 0x12, 0x34, 0x56]).to_string(),
            "fe80::5054:ff:fe12:3456"
        );
    }
}
