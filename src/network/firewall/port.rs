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

/// An element that a port has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Of which table.
    pub table: Table,
    /// Of which set.
    pub set: &'static str,
    /// Itself.
    pub element: Element,
    /// What is published by it.
    pub published: Option<Published>,
}

impl Own {
    /// Elements of the bridge's table have the tap in their keys, others tell in their comment whose they are:
    /// another port may have one of the same key by now.
    pub fn is_sure(&self) -> bool {
        self.table == BRIDGE
    }
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

/// Adds what a port has: its elements, all of them new, and the message that the first of them is.
pub fn add(batch: &mut Batch, port: &PortRules) -> (usize, Vec<Own>) {
    if let Egress::Some { public, destinations } = &port.egress
        && !destinations.is_empty()
    {
        add_chains(batch, &egress_chain(&port.tap), *public, destinations);
    }
    let first = batch.len();
    let own = elements(port);
    for Own { table, set, element, .. } in &own {
        batch.add_new_element(*table, set, element);
    }
    (first, own)
}

/// The elements that a port has.
pub fn elements(port: &PortRules) -> Vec<Own> {
    let tap = name(&port.tap);
    let of_tap = |address: IpAddr| [tap.clone(), octets(address)].concat();
    // In registers, six bytes are followed by two of nothing.
    let mac = [&tap[..], &port.mac, &[0; 2]].concat();
    let own = |table, set, element| Own { table, set, element, published: None };
    let mut all = vec![
        own(BRIDGE, TAPS, Element::new(tap.clone())),
        own(INET, TAPS, noted(port, Element::new(tap.clone()))),
        own(BRIDGE, MACS, Element::new(mac)),
    ];
    let link = link_local(port.mac).into();
    for address in addresses(port, link) {
        let set = if address.is_ipv4() { ADDRESSES4 } else { ADDRESSES6 };
        all.push(own(BRIDGE, set, Element::new(of_tap(address))));
    }
    let to = Data::Verdict(Verdict::Jump(network::chain(&port.bridge)));
    all.push(own(BRIDGE, FORWARDS, Element::with(tap.clone(), to)));
    if let Some((beyond, neighbours)) = egress(port) {
        all.push(own(BRIDGE, CLOSED, Element::with(tap, Data::Verdict(neighbours))));
        for address in addresses(port, link) {
            let set = if address.is_ipv4() { EGRESS4 } else { EGRESS6 };
            let key = [name(&port.bridge), octets(address)].concat();
            let element = Element::with(key, Data::Verdict(beyond.clone()));
            all.push(own(INET, set, noted(port, element)));
        }
    }
    for published in &port.published {
        let element = |(set, element)| Own {
            published: Some(*published),
            ..own(INET, set, noted(port, element))
        };
        all.extend(publish(published).into_iter().map(element));
    }
    all
}

/// With the comment that tells whose it is.
fn noted(port: &PortRules, element: Element) -> Element {
    Element { comment: Some(port.tap.clone()), ..element }
}

/// Each once.
fn addresses(port: &PortRules, own: IpAddr) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = port.addresses.iter().copied().chain([own]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What is done with what a port sends beyond its network, and to its neighbours; nothing where all is open.
fn egress(port: &PortRules) -> Option<(Verdict, Verdict)> {
    let chain = egress_chain(&port.tap);
    match &port.egress {
        Egress::All => None,
        Egress::None => Some((Verdict::Goto(REFUSE.into()), Verdict::Goto(TO_NEIGHBOURS.into()))),
        Egress::Some { destinations, .. } if destinations.is_empty() => {
            Some((Verdict::Jump(PUBLIC.into()), Verdict::Goto(TO_NEIGHBOURS.into())))
        }
        Egress::Some { .. } => Some((Verdict::Jump(chain.clone()), Verdict::Goto(chain))),
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

/// Which elements of which sets tell where it leads.
fn publish(published: &Published) -> Vec<(&'static str, Element)> {
    let host = published.host.filter(|host| !host.is_unspecified());
    // Each part begins at a multiple of four bytes.
    let mut key = host.map(octets).unwrap_or_default();
    key.extend([published.protocol.number(), 0, 0, 0]);
    key.extend(published.host_port.to_be_bytes());
    key.extend([0; 2]);
    let port = [&published.container_port.to_be_bytes()[..], &[0; 2]].concat();
    let address = octets(published.container);
    let element = |data| Element::with(key.clone(), Data::Value(data));
    let [addresses, ports] = match (published.container, host) {
        (IpAddr::V4(_), to) => {
            let set = if to.is_some() { PUBLISHED4_AT } else { PUBLISHED4 };
            return vec![(set, element([address, port].concat()))];
        }
        (IpAddr::V6(_), Some(_)) => [PUBLISHED6_AT, PUBLISHED6_AT_PORT],
        (IpAddr::V6(_), None) => [PUBLISHED6, PUBLISHED6_PORT],
    };
    let port = published.container_port.to_be_bytes().into();
    vec![(addresses, element(address)), (ports, element(port))]
}

/// What is removed as one with a port whose rules are known.
#[derive(Debug, Clone)]
pub enum Removal {
    /// An element.
    Element(Own),
    /// A chain, after all that leads there.
    Chain(Table, String),
}

/// What a port of these rules has. `is_own` tells of elements that another may have by now.
pub fn removals<E>(
    port: &PortRules,
    mut is_own: impl FnMut(&Own) -> Result<bool, E>,
) -> Result<Vec<Removal>, E> {
    let mut all = Vec::new();
    for own in elements(port) {
        if own.is_sure() || is_own(&own)? {
            all.push(Removal::Element(own));
        }
    }
    if matches!(&port.egress, Egress::Some { destinations, .. } if !destinations.is_empty()) {
        all.extend([BRIDGE, INET].map(|table| Removal::Chain(table, egress_chain(&port.tap))));
    }
    Ok(all)
}

/// Asks for the removal of all of these.
pub fn remove(batch: &mut Batch, removals: &[Removal]) {
    for removal in removals {
        match removal {
            Removal::Element(own) => batch.delete_element(own.table, own.set, &own.element),
            Removal::Chain(table, chain) => batch.delete_chain(*table, chain),
        }
    }
}

/// Whether an element is a port's.
fn is_own(tap: &str, table: Table, element: &Element) -> bool {
    if table == BRIDGE {
        element.key.starts_with(&name(tap))
    } else {
        element.comment.as_deref() == Some(tap)
    }
}

/// Removes what there is of a port, whatever its rules were.
pub fn clear(batch: &mut Batch, tap: &str, there: &[(Table, &'static str, Vec<Element>)]) {
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
