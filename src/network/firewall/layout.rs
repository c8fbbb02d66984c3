//! What there is once, for all networks and ports: two tables, their sets, and the chains that look into
//! those. A network or a port is elements, so that a packet's way does not grow with them. Pure.
//!
//! ```text
//! bridge  prerouting  whose addresses a frame has                    taps macs addresses4 addresses6
//!         forward     what passes between containers                 forwards closed
//! inet    guard       the host's loopback addresses, and taps past their bridge
//!         translated  tells the bridge's table what is published
//!         dnat-in     published ports, for others                    published…
//!         dnat-out    published ports, for the host
//!         snat        what leaves a network                          sources4 sources6
//!         forward     what passes between networks and others        egress4 egress6 …
//!         input       what is for the host
//! ```

use super::words::{self, *};
use crate::network::nft::expression::{Refusal, Routes};
use crate::network::nft::{Batch, Chain, Data, Element, Family, Hook, Kind, Set, Table};

/// Frames that pass bridges.
pub const BRIDGE: Table = Table { family: Family::Bridge, name: "ampoule" };
/// Packets of IPv4 and IPv6.
pub const INET: Table = Table { family: Family::Inet, name: "ampoule" };

/// A chain without rules that tells that all of this is there. Whoever changes this file's rules, sets or
/// chains counts on.
pub const MARK: &str = "layout-2";

/// Where an egress that names no neighbours lets nothing pass to them.
pub const TO_NEIGHBOURS: &str = "replies-only";
/// Refuses everything.
pub const REFUSE: &str = "refuse";
/// Refuses what is not of the internet.
pub const PUBLIC: &str = "public";
/// What is forwarded between interfaces that are no network's. Without rules where others decide about that.
pub const OTHERS: &str = "others";
/// Translates to published ports.
const PUBLISHED: &str = "published";

// Maps of the bridge's table whose data are verdicts, by the name of a tap.
/// To a network's [`super::network::forward_chain`].
pub const FORWARDS: &str = "forwards";
/// To a chain that accepts what may pass to neighbours.
pub const CLOSED: &str = "closed";
/// Taps.
pub const TAPS: &str = "taps";
/// Taps and hardware addresses.
pub const MACS: &str = "macs";
/// Taps and addresses of IPv4.
pub const ADDRESSES4: &str = "addresses4";
/// Taps and addresses of IPv6.
pub const ADDRESSES6: &str = "addresses6";
/// Bridges.
pub const BRIDGES: &str = "bridges";
/// Bridges that nothing leaves or enters.
pub const INTERNAL: &str = "internal";
/// Bridges, twice.
pub const SAME: &str = "same";
/// Bridges whose containers do not speak to each other, twice.
pub const APART: &str = "apart";
/// Verdicts on what a container opens, by bridge and address.
pub const EGRESS4: &str = "egress4";
/// The same, of IPv6.
pub const EGRESS6: &str = "egress6";
/// Chains of networks, by their addresses.
pub const SOURCES4: &str = "sources4";
/// The same, of IPv6.
pub const SOURCES6: &str = "sources6";

/// Published at all addresses: of IPv4 to address and port, of IPv6 to address, and to port. Data of more
/// than 16 bytes is new in Linux 5.18.
pub const PUBLISHED4: &str = "published4";
/// The same, at one address.
pub const PUBLISHED4_AT: &str = "published4-at";
/// Addresses, of IPv6.
pub const PUBLISHED6: &str = "published6";
/// Ports, of IPv6.
pub const PUBLISHED6_PORT: &str = "published6-port";
/// Addresses, of IPv6, at one address.
pub const PUBLISHED6_AT: &str = "published6-at";
/// Ports, of IPv6, at one address.
pub const PUBLISHED6_AT_PORT: &str = "published6-at-port";

const fn set(name: &'static str, key: &'static [Kind]) -> Set {
    Set { name, key, data: None, interval: false }
}

const fn map(name: &'static str, key: &'static [Kind], data: &'static [Kind]) -> Set {
    Set { name, key, data: Some(data), interval: false }
}

/// Sets of the bridge's table.
pub const BRIDGE_SETS: [Set; 6] = [
    set(TAPS, &[Kind::Interface]),
    set(MACS, &[Kind::Interface, Kind::Mac]),
    set(ADDRESSES4, &[Kind::Interface, Kind::Address4]),
    set(ADDRESSES6, &[Kind::Interface, Kind::Address6]),
    map(FORWARDS, &[Kind::Interface], &[]),
    map(CLOSED, &[Kind::Interface], &[]),
];

/// Sets of the other table.
pub const INET_SETS: [Set; 17] = [
    set(TAPS, &[Kind::Interface]),
    set(BRIDGES, &[Kind::Interface]),
    set(INTERNAL, &[Kind::Interface]),
    set(SAME, &[Kind::Interface, Kind::Interface]),
    set(APART, &[Kind::Interface, Kind::Interface]),
    map(EGRESS4, &[Kind::Interface, Kind::Address4], &[]),
    map(EGRESS6, &[Kind::Interface, Kind::Address6], &[]),
    Set { interval: true, ..map(SOURCES4, &[Kind::Address4], &[]) },
    Set { interval: true, ..map(SOURCES6, &[Kind::Address6], &[]) },
    map(PUBLISHED4, &[Kind::Protocol, Kind::Port], &[Kind::Address4, Kind::Port]),
    map(
        PUBLISHED4_AT,
        &[Kind::Address4, Kind::Protocol, Kind::Port],
        &[Kind::Address4, Kind::Port],
    ),
    map(PUBLISHED6, &[Kind::Protocol, Kind::Port], &[Kind::Address6]),
    map(PUBLISHED6_PORT, &[Kind::Protocol, Kind::Port], &[Kind::Port]),
    map(PUBLISHED6_AT, &[Kind::Address6, Kind::Protocol, Kind::Port], &[Kind::Address6]),
    map(PUBLISHED6_AT_PORT, &[Kind::Address6, Kind::Protocol, Kind::Port], &[Kind::Port]),
    Set { interval: true, ..set(PRIVATE4, &[Kind::Address4]) },
    Set { interval: true, ..set(PRIVATE6, &[Kind::Address6]) },
];

/// The priority that packets have from `translated` on; routing gives them another. No guest can set it.
const TRANSLATED: u32 = 0x616d_0001;

const PRIVATE4: &str = "private4";
const PRIVATE6: &str = "private6";

/// What is not of the internet: networks, first and last address, in order. From IANA's registry of
/// special-purpose addresses: what is not globally reachable, and multicast.
const NOT_PUBLIC4: [([u8; 4], [u8; 4]); 13] = [
    ([0, 0, 0, 0], [0, 255, 255, 255]),
    ([10, 0, 0, 0], [10, 255, 255, 255]),
    ([100, 64, 0, 0], [100, 127, 255, 255]),
    ([127, 0, 0, 0], [127, 255, 255, 255]),
    ([169, 254, 0, 0], [169, 254, 255, 255]),
    ([172, 16, 0, 0], [172, 31, 255, 255]),
    ([192, 0, 0, 0], [192, 0, 0, 255]),
    ([192, 0, 2, 0], [192, 0, 2, 255]),
    ([192, 168, 0, 0], [192, 168, 255, 255]),
    ([198, 18, 0, 0], [198, 19, 255, 255]),
    ([198, 51, 100, 0], [198, 51, 100, 255]),
    ([203, 0, 113, 0], [203, 0, 113, 255]),
    ([224, 0, 0, 0], [255, 255, 255, 255]),
];

/// The same of IPv6: all but `2000::/3`, and what is in that for documentation, or has an address of IPv4
/// in it, which may be a private one (Teredo, 6to4; of translators' prefixes the well-known one is not in
/// `2000::/3`).
const NOT_PUBLIC6: [(u128, u128); 5] = [
    (0, (0x2000 << 112) - 1),
    (0x2001_0000 << 96, (0x2001_0001 << 96) - 1),
    (0x2001_0db8 << 96, (0x2001_0db9 << 96) - 1),
    (0x2002 << 112, (0x2003 << 112) - 1),
    (0x4000 << 112, u128::MAX),
];

/// The elements of an interval: its first address, and the one after its last, if there is one.
pub fn interval(first: &[u8], last: &[u8], data: Option<Data>) -> Vec<Element> {
    let mut elements = vec![Element { data, ..Element::new(first.to_vec()) }];
    let mut after = last.to_vec();
    for byte in after.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            elements.push(Element::end(after));
            break;
        }
    }
    elements
}

/// Makes what is missing, and the rules anew.
pub fn ensure(batch: &mut Batch) {
    for (table, sets) in [(BRIDGE, &BRIDGE_SETS[..]), (INET, &INET_SETS[..])] {
        batch.add_table(table);
        for set in sets {
            batch.add_set(table, *set);
        }
    }
    let chains: Vec<_> = bridge_chains().into_iter().map(|chain| (BRIDGE, chain)).collect();
    let chains: Vec<_> =
        chains.into_iter().chain(inet_chains().into_iter().map(|chain| (INET, chain))).collect();
    // What is in that one follows from more than this.
    batch.add_chain(INET, Chain { name: OTHERS, hook: None });
    for (table, (name, hook, _)) in &chains {
        batch.add_chain(*table, Chain { name, hook: *hook });
        batch.flush_chain(*table, name);
    }
    for (table, (name, _, rules)) in &chains {
        for rule in rules {
            batch.add_rule(*table, name, rule);
        }
    }
    for (first, last) in NOT_PUBLIC4 {
        for element in interval(&first, &last, None) {
            batch.add_element(INET, PRIVATE4, &element);
        }
    }
    for (first, last) in NOT_PUBLIC6 {
        for element in interval(&first.to_be_bytes(), &last.to_be_bytes(), None) {
            batch.add_element(INET, PRIVATE6, &element);
        }
    }
    for table in [BRIDGE, INET] {
        batch.add_chain(table, Chain { name: MARK, hook: None });
    }
}

type Rules = (&'static str, Option<Hook>, Vec<Words>);

/// Hooks have the same numbers in both families.
fn hook(kind: &'static str, number: u32, priority: i32) -> Option<Hook> {
    Some(Hook { kind, number, priority })
}

// `NF_INET_*` and `NF_BR_*`.
const PRE_ROUTING: u32 = 0;
const LOCAL_IN: u32 = 1;
const FORWARD: u32 = 2;
const LOCAL_OUT: u32 = 3;
const POST_ROUTING: u32 = 4;

fn bridge_chains() -> Vec<Rules> {
    // Before connections are tracked, and before the host's own tables see a frame.
    let first = hook("filter", PRE_ROUTING, -300);
    vec![
        (
            "prerouting",
            first,
            vec![
                rule([from_none_of(TAPS), accept()]),
                rule([not_of_interface(ETHER_SOURCE, MACS), words::drop()]),
                rule([ether_type(IPV4), goto("ipv4")]),
                rule([ether_type(IPV6), goto("ipv6")]),
                rule([ether_type(ARP), goto("arp")]),
                words::drop(),
            ],
        ),
        (
            "forward",
            hook("filter", FORWARD, -200),
            vec![
                rule([has_priority(TRANSLATED), accept()]),
                by_interface(FORWARDS),
                by_interface(CLOSED),
            ],
        ),
        ("ipv4", None, ipv4()),
        ("arp", None, arp()),
        ("ipv6", None, ipv6()),
        ("ipv6-without-address", None, ipv6_without_address()),
        (REPLIES, None, replies()),
        (TO_NEIGHBOURS, None, vec![jump(REPLIES), words::drop()]),
    ]
}

/// Accepts what opens nothing.
pub const REPLIES: &str = "replies";

fn ipv4() -> Vec<Words> {
    vec![
        rule([not_of_interface(SOURCE4, ADDRESSES4), words::drop()]),
        // Who answers for DHCP, or asks who listens to groups, is not a container.
        rule([protocol(UDP), field(SOURCE_PORT, &67u16.to_be_bytes()), words::drop()]),
        rule([protocol(IGMP), field(MESSAGE, &[0x11]), words::drop()]),
        accept(),
    ]
}

fn arp() -> Vec<Words> {
    vec![
        rule([field_is_not(ARP_KIND, &[0, 1, 8, 0, 6, 4]), words::drop()]),
        rule([not_of_interface(ARP_SENDER, MACS), words::drop()]),
        rule([of_interface(ARP_SOURCE, ADDRESSES4), accept()]),
        // Whoever is about to take an address asks for it without one.
        rule([field(ARP_SOURCE, &[0; 4]), of_interface(ARP_TARGET, ADDRESSES4), accept()]),
        words::drop(),
    ]
}

// Messages of ICMPv6.
const LISTENER_QUERY: u8 = 130;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// What hides its message behind headers or in fragments is dropped at the end.
fn ipv6() -> Vec<Words> {
    let not_containers = [LISTENER_QUERY, ROUTER_ADVERTISEMENT, NEIGHBOUR_ADVERTISEMENT, REDIRECT];
    vec![
        rule([field(SOURCE6, &[0; 16]), goto("ipv6-without-address")]),
        rule([not_of_interface(SOURCE6, ADDRESSES6), words::drop()]),
        rule([protocol(UDP), field(SOURCE_PORT, &547u16.to_be_bytes()), words::drop()]),
        rule([other_protocol(ICMPV6), accept()]),
        rule([protocol(ICMPV6), later_fragment(), accept()]),
        rule([
            protocol(ICMPV6),
            field(MESSAGE, &[NEIGHBOUR_ADVERTISEMENT]),
            of_interface(NEIGHBOUR, ADDRESSES6),
            accept(),
        ]),
        rule([protocol(ICMPV6), field_is_none_of(MESSAGE, &not_containers), accept()]),
        words::drop(),
    ]
}

/// Whoever is about to take an address asks for it without one, and tells which groups it listens to.
fn ipv6_without_address() -> Vec<Words> {
    let mut rules = vec![rule([
        protocol(ICMPV6),
        field(MESSAGE, &[NEIGHBOUR_SOLICITATION]),
        of_interface(NEIGHBOUR, ADDRESSES6),
        accept(),
    ])];
    rules.extend(
        [131, 132, 143].map(|report| rule([protocol(ICMPV6), field(MESSAGE, &[report]), accept()])),
    );
    rules.push(words::drop());
    rules
}

/// Bridges track no connections everywhere: what can be told by itself to open nothing.
fn replies() -> Vec<Words> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let mut rules = vec![
        rule([ether_type(ARP), accept()]),
        rule([protocol(TCP), vec_not_opening(SYN, ACK), accept()]),
        rule([protocol(IGMP), accept()]),
        // An echo that is asked for opens something.
        rule([ether_type(IPV6), protocol(ICMPV6), field_is_none_of(MESSAGE, &[128]), accept()]),
    ];
    // Replies to an echo, and errors.
    rules.extend([0, 3, 11, 12].map(|message| {
        rule([ether_type(IPV4), protocol(ICMP), field(MESSAGE, &[message]), accept()])
    }));
    rules
}

fn vec_not_opening(syn: u8, ack: u8) -> Words {
    use crate::network::nft::Register;
    use crate::network::nft::expression::{Comparison, Expression};
    let (base, offset, length) = TCP_FLAGS;
    vec![
        Expression::Payload(base, offset, length, Register::FIRST),
        Expression::Mask(Register::FIRST, vec![syn | ack]),
        Expression::Compare(Register::FIRST, Comparison::IsNot, vec![syn]),
    ]
}

const LOOPBACK6: [u8; 16] = std::net::Ipv6Addr::LOCALHOST.octets();

fn inet_chains() -> Vec<Rules> {
    let mut chains = vec![
        ("guard", hook("filter", PRE_ROUTING, -300), guard()),
        (
            "dnat-in",
            hook("nat", PRE_ROUTING, -100),
            vec![rule([for_the_host(Routes::All), goto("dnat-others")])],
        ),
        ("dnat-others", None, dnat_others()),
        // Where the host's tables see what bridges forward (br_netfilter), a guest's way to what is published
        // of its own network is the bridge's to forward, which does not know that it is published.
        (
            "translated",
            hook("filter", PRE_ROUTING, -90),
            vec![rule([from_one_of(BRIDGES), was_translated(), set_priority(TRANSLATED)])],
        ),
        (
            "dnat-out",
            hook("nat", LOCAL_OUT, -100),
            vec![
                // Nothing is routed from that one: better refused than without a reply.
                rule([is_ip(true), field(DESTINATION6, &LOOPBACK6), back()]),
                rule([for_the_host(Routes::All), goto(PUBLISHED)]),
            ],
        ),
        (PUBLISHED, None, published()),
        ("snat", hook("nat", POST_ROUTING, 100), snat()),
    ];
    chains.extend(filter_chains());
    chains
}

/// A bridge may route the loopback network, so that replies to the host's own find back: from there, nobody
/// gets to it.
fn guard() -> Vec<Words> {
    let loopback = |of| masked(of, &[255, 0, 0, 0], &[127, 0, 0, 0]);
    let mut rules: Vec<_> = [SOURCE4, DESTINATION4]
        .map(|of| rule([from_one_of(BRIDGES), is_ip(false), loopback(of), words::drop()]))
        .into();
    // Frames to 01:80:c2:00:00:0e and the like are the bridge's own: what they carry gets to the host as if
    // the tap were no part of it, past everything that the bridge's table has to say.
    rules.push(rule([from_one_of(TAPS), words::drop()]));
    rules
}

fn dnat_others() -> Vec<Words> {
    let mut rules = vec![rule([from_one_of(INTERNAL), back()])];
    // The name server of its network, whatever is published.
    rules.extend(name_server().map(|asked| rule([from_one_of(BRIDGES), asked, back()])));
    // What is published at a loopback address is the host's own.
    rules.push(rule([
        is_ip(false),
        masked(DESTINATION4, &[255, 0, 0, 0], &[127, 0, 0, 0]),
        back(),
    ]));
    rules.push(goto(PUBLISHED));
    rules
}

/// Asks the host for names, at the address that it has on the asker's network.
pub fn name_server() -> [Words; 2] {
    [TCP, UDP].map(|number| {
        rule([
            protocol(number),
            field(PORT, &53u16.to_be_bytes()),
            for_the_host(Routes::OfItsInterface),
        ])
    })
}

fn published() -> Vec<Words> {
    vec![
        translate(Some(DESTINATION4), false, PUBLISHED4_AT, None),
        translate(None, false, PUBLISHED4, None),
        translate(Some(DESTINATION6), true, PUBLISHED6_AT, Some(PUBLISHED6_AT_PORT)),
        translate(None, true, PUBLISHED6, Some(PUBLISHED6_PORT)),
    ]
}

fn snat() -> Vec<Words> {
    vec![
        // The host's own, by a loopback address to a published port.
        rule([
            to_one_of(BRIDGES),
            is_ip(false),
            masked(SOURCE4, &[255, 0, 0, 0], &[127, 0, 0, 0]),
            masquerade(),
        ]),
        rule([is_ip(false), by_field(SOURCE4, SOURCES4)]),
        rule([is_ip(true), by_field(SOURCE6, SOURCES6)]),
    ]
}

fn by_egress() -> [Words; 2] {
    [
        rule([is_ip(false), by_interface_and(SOURCE4, EGRESS4)]),
        rule([is_ip(true), by_interface_and(SOURCE6, EGRESS6)]),
    ]
}

fn filter_chains() -> Vec<Rules> {
    let established = || rule([state(ESTABLISHED_OR_RELATED), accept()]);
    let [egress4, egress6] = by_egress();
    let [names_by_tcp, names_by_udp] = name_server();
    let mut host = vec![established()];
    // Neighbours, groups.
    host.extend([130, 131, 132, 133, 135, 136, 143].map(|message| {
        rule([is_ip(true), protocol(ICMPV6), field(MESSAGE, &[message]), accept()])
    }));
    host.extend([
        rule([is_ip(false), protocol(IGMP), accept()]),
        egress4.clone(),
        egress6.clone(),
        rule([names_by_tcp, accept()]),
        rule([names_by_udp, accept()]),
        rule([from_one_of(INTERNAL), goto(REFUSE)]),
    ]);
    vec![
        (
            "forward",
            hook("filter", FORWARD, 0),
            vec![
                established(),
                rule([from_one_of(BRIDGES), goto("leaving")]),
                rule([to_one_of(BRIDGES), goto("entering")]),
                goto(OTHERS),
            ],
        ),
        (
            "leaving",
            None,
            vec![
                rule([state(INVALID), words::drop()]),
                egress4,
                egress6,
                rule([between(SAME), goto("within")]),
                rule([from_one_of(INTERNAL), goto(REFUSE)]),
                rule([to_one_of(BRIDGES), goto("entering")]),
            ],
        ),
        // By the host, or past the bridge where that shows the host's tables what it forwards.
        (
            "within",
            None,
            vec![rule([was_translated(), accept()]), rule([between(APART), words::drop()])],
        ),
        (
            "entering",
            None,
            vec![
                rule([to_one_of(INTERNAL), words::drop()]),
                rule([was_translated(), accept()]),
                words::drop(),
            ],
        ),
        ("input", hook("filter", LOCAL_IN, 0), vec![rule([from_one_of(BRIDGES), goto("to-host")])]),
        ("to-host", None, host),
        (PUBLIC, None, public()),
        (
            REFUSE,
            None,
            vec![rule([protocol(TCP), refuse(Refusal::Reset)]), refuse(Refusal::Prohibited)],
        ),
    ]
}

fn public() -> Vec<Words> {
    let mut rules: Vec<_> = name_server().map(|asked| rule([asked, back()])).into();
    rules.extend([
        rule([for_the_host(Routes::All), goto(REFUSE)]),
        rule([is_ip(false), field_in(DESTINATION4, PRIVATE4), goto(REFUSE)]),
        rule([is_ip(true), field_in(DESTINATION6, PRIVATE6), goto(REFUSE)]),
    ]);
    rules
}
