//! The rules of one network. Pure.

use std::net::IpAddr;

use ampoule_protocol::message::Cidr;

use super::layout::{APART, BRIDGE, BRIDGES, INET, INTERNAL, SAME, SOURCES4, SOURCES6, interval};
use super::rules::NetworkRules;
use super::words::{self, back, masquerade, name, rule, to_interface, to_one_of, was_translated};
use crate::network::nft::{Batch, Chain, Data, Element, Verdict};

/// Sets that have elements of networks.
pub const SETS: [&str; 6] = [BRIDGES, INTERNAL, SAME, APART, SOURCES4, SOURCES6];

/// The chain of a network, in both tables.
pub fn chain(bridge: &str) -> String {
    format!("network-{bridge}")
}

/// Elements of a set that are a network's. The end of an interval names nobody: it is the one that
/// follows, in the order of keys, the beginning of which it is the end.
pub fn own<'a>(bridge: &str, elements: &'a [Element]) -> Vec<&'a Element> {
    let (name, chain) = (name(bridge), chain(bridge));
    let mut sorted: Vec<_> = elements.iter().collect();
    // Where one interval ends another may begin.
    sorted.sort_by_key(|element| (&element.key, !element.ends));
    let mut began = false;
    sorted.retain(|element| {
        let is_own = match &element.data {
            Some(Data::Verdict(Verdict::Goto(of))) => *of == chain,
            _ if element.ends => began,
            _ => element.key.starts_with(&name),
        };
        began = is_own && !element.ends;
        is_own
    });
    sorted
}

/// Elements that a network has.
pub fn elements(network: &NetworkRules) -> Vec<(&'static str, Element)> {
    let one = name(&network.bridge);
    let both = [one.clone(), one.clone()].concat();
    let mut elements =
        vec![(BRIDGES, Element::new(one.clone())), (SAME, Element::new(both.clone()))];
    if network.internal {
        elements.push((INTERNAL, Element::new(one)));
    }
    if !network.icc {
        elements.push((APART, Element::new(both)));
    }
    for subnet in &network.subnets {
        let set = if subnet.address().is_ipv4() { SOURCES4 } else { SOURCES6 };
        let to = Data::Verdict(Verdict::Goto(chain(&network.bridge)));
        let (first, last) = ends(*subnet);
        elements
            .extend(interval(&first, &last, Some(to)).into_iter().map(|element| (set, element)));
    }
    elements
}

/// First and last address of a subnet.
fn ends(subnet: Cidr) -> (Vec<u8>, Vec<u8>) {
    let host = u128::MAX.checked_shr(subnet.prefix().into()).unwrap_or(0);
    match subnet.address() {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(subnet.prefix().into()).unwrap_or(0);
            let bits = address.to_bits();
            ((bits & !host).to_be_bytes().into(), (bits | host).to_be_bytes().into())
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            ((bits & !host).to_be_bytes().into(), (bits | host).to_be_bytes().into())
        }
    }
}

/// Makes a network's chains anew, and its elements of what there was: those of each set.
pub fn add(batch: &mut Batch, network: &NetworkRules, there: &[(&'static str, Vec<Element>)]) {
    let chain = chain(&network.bridge);
    for table in [BRIDGE, INET] {
        batch.add_chain(table, Chain { name: &chain, hook: None });
        batch.flush_chain(table, &chain);
    }
    if !network.icc {
        batch.add_rule(BRIDGE, &chain, &words::drop());
    }
    let same = || to_interface(&network.bridge);
    // Back to its own network by a published port: whoever answers has to do so the same way.
    batch.add_rule(INET, &chain, &rule([same(), was_translated(), masquerade()]));
    if network.masquerade {
        batch.add_rule(INET, &chain, &rule([same(), back()]));
        batch.add_rule(INET, &chain, &rule([to_one_of(BRIDGES), back()]));
        batch.add_rule(INET, &chain, &masquerade());
    }
    let wanted = elements(network);
    let key = |element: &Element| (element.key.clone(), element.ends);
    for (set, elements) in there {
        for element in own(&network.bridge, elements) {
            if !wanted.iter().any(|(of, wanted)| of == set && key(wanted) == key(element)) {
                batch.delete_element(INET, set, element);
            }
        }
    }
    for (set, element) in &wanted {
        let there = there.iter().find(|(of, _)| of == set).map(|(_, elements)| elements);
        let is_there = there.is_some_and(|elements| {
            own(&network.bridge, elements).iter().any(|there| key(there) == key(element))
        });
        if !is_there {
            batch.add_element(INET, set, element);
        }
    }
}

/// Removes what there is of a network.
pub fn remove(batch: &mut Batch, bridge: &str, there: &[(&'static str, Vec<Element>)]) {
    for (set, elements) in there {
        for element in own(bridge, elements) {
            batch.delete_element(INET, set, element);
        }
    }
    if !batch.is_empty() {
        for table in [BRIDGE, INET] {
            batch.delete_chain(table, &chain(bridge));
        }
    }
}
