//! What rules consist of: expressions, each of which works on registers, or decides.

use super::attributes::Attributes;

// From the kernel's include/uapi/linux/netfilter/nf_tables.h, as all numbers of attributes in this file.
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// A register of 32 bits, by its number: there are 16. What is longer takes those that follow, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

impl Register {
    /// The first.
    pub const FIRST: Self = Self(0);

    /// The kernel counts those of 16 bytes that there were once from 1, and those of 4 bytes from 8.
    fn number(self) -> u32 {
        let number = u32::from(self.0);
        if number.is_multiple_of(4) { 1 + number / 4 } else { 8 + number }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is gone.
    Drop,
    /// This chain, and who called it, has nothing more to say.
    Accept,
    /// Who called this chain goes on.
    Return,
    /// That chain is asked, and then this one goes on.
    Jump(String),
    /// That chain is asked in place of this one.
    Goto(String),
}

/// What is in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Bytes.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

impl Data {
    /// As an attribute's value.
    pub fn write(&self, attributes: &mut Attributes) {
        let verdict = match self {
            Self::Value(bytes) => return attributes.put(DATA_VALUE, bytes),
            Self::Verdict(verdict) => verdict,
        };
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
        };
        attributes.nest(DATA_VERDICT, |attributes| {
            attributes.put_u32(VERDICT_CODE, i32::cast_unsigned(code));
            if let Some(chain) = chain {
                attributes.put_text(VERDICT_CHAIN, chain);
            }
        });
    }

    /// The chain that an attribute's value names.
    pub fn chain(value: &[u8]) -> Option<String> {
        let verdict = super::attributes::find(value, DATA_VERDICT)?;
        super::attributes::find(verdict, VERDICT_CHAIN).map(super::attributes::text)
    }

    /// The bytes of an attribute's value.
    pub fn value(value: &[u8]) -> Option<&[u8]> {
        super::attributes::find(value, DATA_VALUE)
    }
}

/// What is known of a packet beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Meta {
    /// Its priority in queues; 4 bytes, in the host's order.
    Priority = 2,
    /// Name of the interface that it came in by; 16 bytes.
    Iifname = 6,
    /// Name of the interface that it goes out by; 16 bytes.
    Oifname = 7,
    /// `NFPROTO_*`: IPv4 or IPv6; a byte.
    NfProtocol = 15,
    /// The protocol of the transport; a byte. None where a header of IPv6 hides it.
    L4Protocol = 16,
}

/// Where a header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Base {
    /// Ethernet's.
    Link = 0,
    /// That of IP or ARP.
    Network = 1,
    /// That of TCP and the like; not in fragments but the first.
    Transport = 2,
}

/// What is known of a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Connection {
    /// A bit: `INVALID`, `ESTABLISHED`, `RELATED`.
    State = 0,
    /// Bits of `IPS_*`.
    Status = 2,
    /// The port that its first packet was for, before it was translated.
    OriginalPort = 12,
    /// The address of IPv4 that its first packet was for.
    OriginalAddress4 = 20,
    /// The address of IPv6 that its first packet was for.
    OriginalAddress6 = 22,
}

/// How bytes compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Comparison {
    /// They are the same.
    Is = 0,
    /// They are not.
    IsNot = 1,
    /// They are not above.
    AtMost = 3,
    /// They are not below.
    AtLeast = 5,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// By TCP's reset.
    Reset,
    /// By ICMP: prohibited.
    Prohibited,
}

/// Where a route to the packet's destination is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// Wherever.
    All,
    /// At the interface that it came in by.
    OfItsInterface,
}

/// A step of a rule. Where one of them does not hold, the rule says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads what is known of the packet.
    Meta(Meta, Register),
    /// Gives the packet the priority that is in a register.
    SetPriority(Register),
    /// Loads these bytes.
    Immediate(Register, Vec<u8>),
    /// Loads bytes of the packet, of a header from an offset on.
    Payload(Base, u32, u32, Register),
    /// Loads the field of the packet's fragment header of IPv6 that has its offset.
    FragmentOffset(Register),
    /// Loads what is known of the connection.
    Connection(Connection, Register),
    /// Loads `RTN_*` of the packet's destination.
    Destination(Routes, Register),
    /// Masks what is in a register.
    Mask(Register, Vec<u8>),
    /// Holds where a register compares.
    Compare(Register, Comparison, Vec<u8>),
    /// Holds where a register is in a set.
    In(Register, &'static str),
    /// Holds where a register is not in a set.
    NotIn(Register, &'static str),
    /// Loads what a map has for a register.
    Map(Register, &'static str, Register),
    /// Decides as a map says for a register.
    VerdictOf(Register, &'static str),
    /// Decides.
    Verdict(Verdict),
    /// Translates the destination to an address and a port, in registers; of IPv6 or of IPv4.
    Translate {
        /// IPv6.
        v6: bool,
        /// The address.
        address: Register,
        /// The port.
        port: Register,
    },
    /// Translates the source to the address of the interface that the packet goes out by.
    Masquerade,
    /// Refuses the packet, and tells its sender.
    Refuse(Refusal),
}

impl Expression {
    /// As an attribute's value.
    pub fn write(&self, attributes: &mut Attributes) {
        attributes.put_text(EXPR_NAME, self.name());
        attributes.nest(EXPR_DATA, |attributes| self.write_data(attributes));
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) | Self::SetPriority(_) => "meta",
            Self::Payload(..) => "payload",
            Self::FragmentOffset(_) => "exthdr",
            Self::Connection(..) => "ct",
            Self::Destination(..) => "fib",
            Self::Mask(..) => "bitwise",
            Self::Compare(..) => "cmp",
            Self::In(..) | Self::NotIn(..) | Self::Map(..) | Self::VerdictOf(..) => "lookup",
            Self::Immediate(..) | Self::Verdict(_) => "immediate",
            Self::Translate { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Refuse(_) => "reject",
        }
    }

    /// In the order of the kernel's numbers of the attributes of each.
    fn write_data(&self, a: &mut Attributes) {
        let lookup = |a: &mut Attributes, set: &str, from: Register| {
            a.put_text(1, set);
            a.put_u32(2, from.number());
        };
        match self {
            Self::Meta(key, to) => {
                a.put_u32(1, to.number());
                a.put_u32(2, *key as u32);
            }
            Self::SetPriority(from) => {
                a.put_u32(2, Meta::Priority as u32);
                a.put_u32(3, from.number());
            }
            Self::Immediate(to, value) => {
                a.put_u32(1, to.number());
                a.nest(2, |a| a.put(DATA_VALUE, value));
            }
            Self::Payload(base, offset, length, to) => {
                a.put_u32(1, to.number());
                a.put_u32(2, *base as u32);
                a.put_u32(3, *offset);
                a.put_u32(4, *length);
            }
            Self::FragmentOffset(to) => {
                a.put_u32(1, to.number());
                // IPPROTO_FRAGMENT; the other numbers are the field's offset and length.
                a.put(2, &[44]);
                a.put_u32(3, 2);
                a.put_u32(4, 2);
            }
            Self::Connection(key, to) => {
                a.put_u32(1, to.number());
                a.put_u32(2, *key as u32);
                if !matches!(key, Connection::State | Connection::Status) {
                    // IP_CT_DIR_ORIGINAL.
                    a.put(3, &[0]);
                }
            }
            Self::Destination(routes, to) => {
                a.put_u32(1, to.number());
                // NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR and NFTA_FIB_F_IIF.
                a.put_u32(2, 3);
                a.put_u32(3, if *routes == Routes::All { 1 << 1 } else { 1 << 1 | 1 << 3 });
            }
            Self::Mask(register, mask) => {
                a.put_u32(1, register.number());
                a.put_u32(2, register.number());
                a.put_u32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                a.nest(4, |a| a.put(DATA_VALUE, mask));
                a.nest(5, |a| a.put(DATA_VALUE, &vec![0; mask.len()]));
            }
            Self::Compare(from, comparison, value) => {
                a.put_u32(1, from.number());
                a.put_u32(2, *comparison as u32);
                a.nest(3, |a| a.put(DATA_VALUE, value));
            }
            Self::In(from, set) => lookup(a, set, *from),
            Self::NotIn(from, set) => {
                lookup(a, set, *from);
                // NFT_LOOKUP_F_INV.
                a.put_u32(5, 1);
            }
            Self::Map(from, set, to) => {
                lookup(a, set, *from);
                a.put_u32(3, to.number());
            }
            Self::VerdictOf(from, set) => {
                lookup(a, set, *from);
                a.put_u32(3, 0);
            }
            Self::Verdict(verdict) => {
                a.put_u32(1, 0);
                a.nest(2, |a| Data::Verdict(verdict.clone()).write(a));
            }
            Self::Translate { v6, address, port } => {
                // NFT_NAT_DNAT.
                a.put_u32(1, 1);
                a.put_u32(
                    2,
                    if *v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 }.cast_unsigned(),
                );
                a.put_u32(3, address.number());
                a.put_u32(5, port.number());
            }
            Self::Masquerade => (),
            Self::Refuse(refusal) => {
                // NFT_REJECT_TCP_RST; NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_ADMIN_PROHIBITED.
                let (kind, code) = if *refusal == Refusal::Reset { (1, 0) } else { (2, 3) };
                a.put_u32(1, kind);
                a.put(2, &[code]);
            }
        }
    }
}
