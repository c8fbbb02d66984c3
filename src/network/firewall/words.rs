//! The words that rules are made of.

use std::net::{IpAddr, Ipv6Addr};

use crate::network::nft::expression::{
    Base, Comparison, Connection, Expression, Meta, Refusal, Routes,
};
use crate::network::nft::{Register, Verdict};

/// A rule, or part of one.
pub type Words = Vec<Expression>;

const FIRST: Register = Register::FIRST;
/// After the name of an interface.
const AFTER_NAME: Register = Register(4);

// Ethernet's types.
/// IPv4.
pub const IPV4: u16 = 0x0800;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// ARP.
pub const ARP: u16 = 0x0806;

// Protocols of the transport.
/// ICMP.
pub const ICMP: u8 = 1;
/// IGMP.
pub const IGMP: u8 = 2;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// One after the other.
pub fn rule(parts: impl IntoIterator<Item = Words>) -> Words {
    parts.into_iter().flatten().collect()
}

/// Decides.
pub fn verdict(verdict: Verdict) -> Words {
    vec![Expression::Verdict(verdict)]
}

/// Asks another chain in place of this one.
pub fn goto(chain: &str) -> Words {
    verdict(Verdict::Goto(chain.to_owned()))
}

/// Asks another chain.
pub fn jump(chain: &str) -> Words {
    verdict(Verdict::Jump(chain.to_owned()))
}

/// This chain has nothing more to say against it.
pub fn accept() -> Words {
    verdict(Verdict::Accept)
}

/// It is gone.
pub fn drop() -> Words {
    verdict(Verdict::Drop)
}

/// Whoever called this chain goes on.
pub fn back() -> Words {
    verdict(Verdict::Return)
}

/// The name of an interface, as registers and sets have it.
pub fn name(interface: &str) -> Vec<u8> {
    let mut name = interface.as_bytes().to_vec();
    name.resize(libc::IFNAMSIZ, 0);
    name
}

/// An address's bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn is(value: impl Into<Vec<u8>>) -> Expression {
    Expression::Compare(FIRST, Comparison::Is, value.into())
}

/// It came in by an interface of a set.
pub fn from_one_of(set: &'static str) -> Words {
    vec![Expression::Meta(Meta::Iifname, FIRST), Expression::In(FIRST, set)]
}

/// It came in by an interface that is not in a set.
pub fn from_none_of(set: &'static str) -> Words {
    vec![Expression::Meta(Meta::Iifname, FIRST), Expression::NotIn(FIRST, set)]
}

/// It goes out by an interface of a set.
pub fn to_one_of(set: &'static str) -> Words {
    vec![Expression::Meta(Meta::Oifname, FIRST), Expression::In(FIRST, set)]
}

/// It goes out by this interface.
pub fn to_interface(interface: &str) -> Words {
    vec![Expression::Meta(Meta::Oifname, FIRST), is(name(interface))]
}

/// Names of the interfaces that it came in by and goes out by are in a set.
pub fn between(set: &'static str) -> Words {
    vec![
        Expression::Meta(Meta::Iifname, FIRST),
        Expression::Meta(Meta::Oifname, AFTER_NAME),
        Expression::In(FIRST, set),
    ]
}

/// What a map says of the interface that it came in by.
pub fn by_interface(map: &'static str) -> Words {
    vec![Expression::Meta(Meta::Iifname, FIRST), Expression::VerdictOf(FIRST, map)]
}

/// The interface that it came in by, and a field.
fn interface_and((base, offset, length): Field) -> Words {
    vec![
        Expression::Meta(Meta::Iifname, FIRST),
        Expression::Payload(base, offset, length, AFTER_NAME),
    ]
}

/// Both are in a set.
pub fn of_interface(field: Field, set: &'static str) -> Words {
    rule([interface_and(field), vec![Expression::In(FIRST, set)]])
}

/// Both are not in a set.
pub fn not_of_interface(field: Field, set: &'static str) -> Words {
    rule([interface_and(field), vec![Expression::NotIn(FIRST, set)]])
}

/// What a map says of both.
pub fn by_interface_and(field: Field, map: &'static str) -> Words {
    rule([interface_and(field), vec![Expression::VerdictOf(FIRST, map)]])
}

/// A field of a header: where that begins, offset and length.
pub type Field = (Base, u32, u32);

/// The sender's hardware address.
pub const ETHER_SOURCE: Field = (Base::Link, 6, 6);
/// Which addresses ARP is about, of Ethernet and IPv4 all of it.
pub const ARP_KIND: Field = (Base::Network, 0, 6);
/// ARP's sender, in hardware.
pub const ARP_SENDER: Field = (Base::Network, 8, 6);
/// ARP's sender.
pub const ARP_SOURCE: Field = (Base::Network, 14, 4);
/// Whom ARP asks for.
pub const ARP_TARGET: Field = (Base::Network, 24, 4);
/// Source of IPv4.
pub const SOURCE4: Field = (Base::Network, 12, 4);
/// Destination of IPv4.
pub const DESTINATION4: Field = (Base::Network, 16, 4);
/// Source of IPv6.
pub const SOURCE6: Field = (Base::Network, 8, 16);
/// Destination of IPv6.
pub const DESTINATION6: Field = (Base::Network, 24, 16);
/// Port of TCP, UDP and the like that it is from.
pub const SOURCE_PORT: Field = (Base::Transport, 0, 2);
/// Port that it is for.
pub const PORT: Field = (Base::Transport, 2, 2);
/// TCP's flags.
pub const TCP_FLAGS: Field = (Base::Transport, 13, 1);
/// Type of ICMP, ICMPv6 and IGMP.
pub const MESSAGE: Field = (Base::Transport, 0, 1);
/// Whose neighbour ICMPv6 asks for or tells of.
pub const NEIGHBOUR: Field = (Base::Transport, 8, 16);

fn load((base, offset, length): Field) -> Expression {
    Expression::Payload(base, offset, length, FIRST)
}

/// A field is this.
pub fn field(field: Field, value: &[u8]) -> Words {
    vec![load(field), is(value)]
}

/// A field is none of these.
pub fn field_is_none_of(field: Field, values: &[u8]) -> Words {
    let not = |value: &u8| Expression::Compare(FIRST, Comparison::IsNot, vec![*value]);
    std::iter::once(load(field)).chain(values.iter().map(not)).collect()
}

/// A field is not this.
pub fn field_is_not(field: Field, value: &[u8]) -> Words {
    vec![load(field), Expression::Compare(FIRST, Comparison::IsNot, value.into())]
}

/// The masked bits of a field are these.
pub fn masked(field: Field, mask: &[u8], value: &[u8]) -> Words {
    vec![load(field), Expression::Mask(FIRST, mask.into()), is(value)]
}

/// A field is in a set.
pub fn field_in(field: Field, set: &'static str) -> Words {
    vec![load(field), Expression::In(FIRST, set)]
}

/// What a map says of a field.
pub fn by_field(field: Field, map: &'static str) -> Words {
    vec![load(field), Expression::VerdictOf(FIRST, map)]
}

/// Ethernet's type; what has a tag of a virtual network has that one's.
pub fn ether_type(value: u16) -> Words {
    field((Base::Link, 12, 2), &value.to_be_bytes())
}

/// It is IPv4, or IPv6.
pub fn is_ip(v6: bool) -> Words {
    let number = if v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
    let number = u8::try_from(number).unwrap_or_default();
    vec![Expression::Meta(Meta::NfProtocol, FIRST), is([number])]
}

/// It is of this protocol.
pub fn protocol(number: u8) -> Words {
    vec![Expression::Meta(Meta::L4Protocol, FIRST), is([number])]
}

/// It is known to be of another protocol.
pub fn other_protocol(number: u8) -> Words {
    vec![
        Expression::Meta(Meta::L4Protocol, FIRST),
        Expression::Compare(FIRST, Comparison::IsNot, vec![number]),
    ]
}

/// It is a fragment of IPv6, and not the first.
pub fn later_fragment() -> Words {
    vec![
        Expression::FragmentOffset(FIRST),
        Expression::Mask(FIRST, vec![0xff, 0xf8]),
        Expression::Compare(FIRST, Comparison::IsNot, vec![0, 0]),
    ]
}

/// States of connections, as the kernel's bits are in registers.
pub const INVALID: u32 = 1;
/// Something was answered already, or this is about such a connection.
pub const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;

/// Its connection is in one of these states.
pub fn state(bits: u32) -> Words {
    connection_has(Connection::State, bits)
}

/// A port that is published, or another translation, led it here.
pub fn was_translated() -> Words {
    // IPS_DST_NAT.
    connection_has(Connection::Status, 1 << 5)
}

fn connection_has(key: Connection, bits: u32) -> Words {
    vec![
        Expression::Connection(key, FIRST),
        Expression::Mask(FIRST, bits.to_ne_bytes().into()),
        Expression::Compare(FIRST, Comparison::IsNot, vec![0; 4]),
    ]
}

/// The network that its connection was opened to, before the host translated it.
pub fn opened_to(network: IpAddr, prefix: u8) -> Words {
    let (key, length) = match network {
        IpAddr::V4(_) => (Connection::OriginalAddress4, 4),
        IpAddr::V6(_) => (Connection::OriginalAddress6, 16),
    };
    let mut words = vec![Expression::Connection(key, FIRST)];
    words.extend(within(network, prefix, length));
    words
}

/// The network that it is for.
pub fn is_for(network: IpAddr, prefix: u8) -> Words {
    let (to, length) = match network {
        IpAddr::V4(_) => (DESTINATION4, 4),
        IpAddr::V6(_) => (DESTINATION6, 16),
    };
    let mut words = vec![load(to)];
    words.extend(within(network, prefix, length));
    words
}

/// What is in the first register is of a network.
fn within(network: IpAddr, prefix: u8, length: usize) -> Words {
    let mask = Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0));
    let mask = mask.octets().get(..length).unwrap_or_default().to_vec();
    vec![Expression::Mask(FIRST, mask), is(octets(network))]
}

/// The ports that its connection was opened to.
pub fn opened_to_ports(first: u16, last: u16) -> Words {
    let mut words = vec![Expression::Connection(Connection::OriginalPort, FIRST)];
    words.extend(range(first, last));
    words
}

/// The ports that it is for.
pub fn is_for_ports(first: u16, last: u16) -> Words {
    let mut words = vec![load(PORT)];
    words.extend(range(first, last));
    words
}

fn range(first: u16, last: u16) -> Words {
    vec![
        Expression::Compare(FIRST, Comparison::AtLeast, first.to_be_bytes().into()),
        Expression::Compare(FIRST, Comparison::AtMost, last.to_be_bytes().into()),
    ]
}

/// It is for the host itself, or for the address that the host has at the interface it came in by.
pub fn for_the_host(routes: Routes) -> Words {
    // RTN_LOCAL.
    vec![Expression::Destination(routes, FIRST), is(2u32.to_ne_bytes())]
}

/// Translates the source to the address of the interface that the packet goes out by.
pub fn masquerade() -> Words {
    vec![Expression::Masquerade]
}

/// Refuses it, and tells its sender.
pub fn refuse(refusal: Refusal) -> Words {
    vec![Expression::Refuse(refusal)]
}

/// Translates the destination to what two maps, or one, have for it: with `to`, for its address, protocol
/// and port; without, for protocol and port.
pub fn translate(
    to: Option<Field>,
    v6: bool,
    addresses: &'static str,
    ports: Option<&'static str>,
) -> Words {
    // Keys are in the first registers, data after the longest key.
    let (address, port) = (Register(8), Register(if v6 { 12 } else { 9 }));
    let after = if to.is_none() {
        0
    } else if v6 {
        4
    } else {
        1
    };
    let mut words = is_ip(v6);
    if let Some(to) = to {
        words.push(load(to));
    }
    words.push(Expression::Meta(Meta::L4Protocol, Register(after)));
    let (base, offset, length) = PORT;
    words.push(Expression::Payload(base, offset, length, Register(after + 1)));
    words.push(Expression::Map(FIRST, addresses, address));
    if let Some(ports) = ports {
        words.push(Expression::Map(FIRST, ports, port));
    }
    words.push(Expression::Translate { v6, address, port });
    words
}

/// Gives it a priority.
pub fn set_priority(priority: u32) -> Words {
    vec![
        Expression::Immediate(FIRST, priority.to_ne_bytes().into()),
        Expression::SetPriority(FIRST),
    ]
}

/// It has this priority.
pub fn has_priority(priority: u32) -> Words {
    vec![Expression::Meta(Meta::Priority, FIRST), is(priority.to_ne_bytes())]
}
