//! What a container may open connections to: the words of `--egress`. Pure.
//!
//! | rule | open |
//! | --- | --- |
//! | `all` | everything; what is there without any rule |
//! | `none` | nothing, not even the network's name server |
//! | `public` | what is of the internet, and the network's name server |
//! | `CIDR[:PORT[-PORT]][/tcp\|/udp\|/sctp]` | that, and the network's name server |
//!
//! `all` and `none` stand alone; several of the others open what each of them opens. Replies to who has
//! opened a connection to the container are none of this.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ampoule_protocol::message::Cidr;
use serde::{Deserialize, Serialize};

use super::firewall::Protocol;

/// Most destinations that one container's egress names.
pub const MAX_DESTINATIONS: usize = 128;

/// What a container may open connections to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Egress {
    /// Everything.
    #[default]
    All,
    /// Nothing.
    None,
    /// This, and its network's name server.
    Some {
        /// What is of the internet, and not of the host.
        public: bool,
        /// And these.
        destinations: Vec<Destination>,
    },
}

/// Where connections may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Addresses, none of whose bits beyond the prefix is set.
    to: Cidr,
    /// The first port and the last one; all where it is none.
    ports: Option<(u16, u16)>,
    /// With ports and without a protocol: of each protocol that has ports.
    protocol: Option<Protocol>,
}

/// One word of `--egress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EgressRule {
    /// Everything.
    All,
    /// Nothing.
    None,
    /// What is of the internet.
    Public,
    /// This.
    To(Destination),
}

/// A text that says nothing of what a container may open connections to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// no such word
    #[error(
        "{0:?} is none of all, none, public and CIDR[:PORT[-PORT]][/tcp|/udp|/sctp], \
         with an address of IPv6 before a port in brackets"
    )]
    NoRule(String),
    /// words that cannot stand with others
    #[error("{0} says all that there is to say: no other rule stands beside it")]
    Alone(&'static str),
    /// too many of them
    #[error("more than {MAX_DESTINATIONS} destinations")]
    TooMany,
}

impl Egress {
    /// That of several rules; everything, where there is none.
    pub fn new(rules: impl IntoIterator<Item = EgressRule>) -> Result<Self, EgressError> {
        let mut egress: Option<Self> = None;
        for rule in rules {
            egress = Some(match (egress, rule) {
                (None | Some(Self::All), EgressRule::All) => Self::All,
                (None | Some(Self::None), EgressRule::None) => Self::None,
                (Some(Self::All), _) | (_, EgressRule::All) => {
                    return Err(EgressError::Alone("all"));
                }
                (Some(Self::None), _) | (_, EgressRule::None) => {
                    return Err(EgressError::Alone("none"));
                }
                (some, rule) => {
                    let (mut public, mut destinations) = match some {
                        Some(Self::Some { public, destinations }) => (public, destinations),
                        _ => (false, Vec::new()),
                    };
                    match rule {
                        EgressRule::To(to) if destinations.contains(&to) => (),
                        EgressRule::To(_) if destinations.len() == MAX_DESTINATIONS => {
                            return Err(EgressError::TooMany);
                        }
                        EgressRule::To(to) => destinations.push(to),
                        _ => public = true,
                    }
                    Self::Some { public, destinations }
                }
            });
        }
        Ok(egress.unwrap_or_default())
    }
}

impl Destination {
    /// None where the last port is before the first.
    pub fn new(to: Cidr, ports: Option<(u16, u16)>, protocol: Option<Protocol>) -> Option<Self> {
        if ports.is_some_and(|(first, last)| first > last || first == 0) {
            return None;
        }
        Some(Self { to: masked(to)?, ports, protocol })
    }

    /// Its addresses.
    pub fn to(self) -> Cidr {
        self.to
    }

    /// Its first port and its last one.
    pub fn ports(self) -> Option<(u16, u16)> {
        self.ports
    }

    /// Its protocol.
    pub fn protocol(self) -> Option<Protocol> {
        self.protocol
    }
}

/// The first of a network's addresses, with its prefix.
pub(super) fn masked(cidr: Cidr) -> Option<Cidr> {
    let prefix = cidr.prefix();
    let address = match cidr.address() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    };
    Cidr::new(address, prefix)
}

impl FromStr for Destination {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        destination(text).ok_or_else(|| EgressError::NoRule(text.chars().take(64).collect()))
    }
}

fn destination(text: &str) -> Option<Destination> {
    let (text, protocol) = match text.rsplit_once('/') {
        Some((before, word)) => match word.parse() {
            Ok(protocol) => (before, Some(protocol)),
            Err(_) => (text, None),
        },
        None => (text, None),
    };
    let (to, ports) = if let Some(bracketed) = text.strip_prefix('[') {
        let (to, rest) = bracketed.split_once(']')?;
        let to = cidr(to).filter(|to| to.address().is_ipv6())?;
        (to, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((to, ports)) if !ports.contains(':') => (cidr(to)?, Some(ports)),
            _ => (cidr(text)?, None),
        }
    };
    let ports = match ports {
        Some(ports) => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            Some((number(first)?, number(last)?))
        }
        None => None,
    };
    Destination::new(to, ports, protocol)
}

/// An address alone is a network of one.
fn cidr(text: &str) -> Option<Cidr> {
    if text.contains('/') {
        return text.parse().ok();
    }
    let address: IpAddr = text.parse().ok()?;
    Cidr::new(address, if address.is_ipv4() { 32 } else { 128 })
}

/// Without the sign that Rust's numbers may have.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to.address(), self.ports) {
            (IpAddr::V6(_), Some(_)) => write!(f, "[{}]", self.to)?,
            _ => write!(f, "{}", self.to)?,
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => (),
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            "public" => Ok(Self::Public),
            other => other.parse().map(Self::To),
        }
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::None => f.write_str("none"),
            Self::Public => f.write_str("public"),
            Self::To(destination) => destination.fmt(f),
        }
    }
}

/// Rules with commas between them.
impl FromStr for Egress {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let rules: Result<Vec<EgressRule>, _> =
            text.split(',').take(2 * MAX_DESTINATIONS).map(str::parse).collect();
        Self::new(rules?)
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Some { public, destinations } = self else {
            return f.write_str(if *self == Self::All { "all" } else { "none" });
        };
        let mut between = "";
        if *public {
            f.write_str("public")?;
            between = ",";
        }
        for destination in destinations {
            write!(f, "{between}{destination}")?;
            between = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for Egress {
    type Error = EgressError;

    fn try_from(text: String) -> Result<Self, EgressError> {
        text.parse()
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> Self {
        egress.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn destinations() -> impl Strategy<Value = Destination> {
        let protocol = prop_oneof![
            Just(None),
            Just(Some(Protocol::Tcp)),
            Just(Some(Protocol::Udp)),
            Just(Some(Protocol::Sctp))
        ];
        let ports = proptest::option::of((1u16.., 1u16..));
        (any::<IpAddr>(), 0..=128u8, ports, protocol).prop_map(|(address, prefix, ports, of)| {
            let prefix = if address.is_ipv4() { prefix % 33 } else { prefix };
            let ports = ports.map(|(a, b)| (a.min(b), a.max(b)));
            Destination::new(Cidr::new(address, prefix).unwrap(), ports, of).unwrap()
        })
    }

    fn rules() -> impl Strategy<Value = EgressRule> {
        prop_oneof![
            Just(EgressRule::All),
            Just(EgressRule::None),
            Just(EgressRule::Public),
            destinations().prop_map(EgressRule::To)
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rules in proptest::collection::vec(rules(), 0..6)) {
            for rule in &rules {
                prop_assert_eq!(rule.to_string().parse::<EgressRule>(), Ok(*rule));
            }
            match Egress::new(rules.clone()) {
                Ok(egress) => {
                    prop_assert_eq!(egress.to_string().parse::<Egress>(), Ok(egress.clone()));
                    let json = serde_json::to_string(&egress).unwrap();
                    prop_assert_eq!(serde_json::from_str::<Egress>(&json).unwrap(), egress);
                }
                Err(EgressError::Alone(_)) => {
                    let alone = |rule: &&EgressRule| matches!(rule, EgressRule::All | EgressRule::None);
                    prop_assert!(rules.iter().any(|rule| alone(&rule)));
                    prop_assert!(rules.windows(2).any(|pair| pair[0] != pair[1]));
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }

        #[test]
        fn any_text_is_a_rule_or_refused(text in "[0-9a-f.:/\\[\\]tcpudsln,-]{0,40}") {
            if let Ok(egress) = text.parse::<Egress>() {
                prop_assert_eq!(egress.to_string().parse::<Egress>(), Ok(egress));
            }
        }

        #[test]
        fn a_destination_begins_at_its_first_address(destination in destinations()) {
            prop_assert_eq!(masked(destination.to()), Some(destination.to()));
        }
    }

    #[test]
    fn words_say_what_they_say() {
        let read = |text: &str| text.parse::<Destination>();
        let plain = read("10.1.2.3").unwrap();
        assert_eq!(
            (plain.to(), plain.ports(), plain.protocol()),
            ("10.1.2.3/32".parse().unwrap(), None, None)
        );
        assert_eq!(read("10.1.2.3/8:80-90/tcp").unwrap().to_string(), "10.0.0.0/8:80-90/tcp");
        assert_eq!(read("[2001:db8::/32]:443/udp").unwrap().to_string(), "[2001:db8::/32]:443/udp");
        assert_eq!(read("2001:db8::1/tcp").unwrap().to_string(), "2001:db8::1/128/tcp");
        assert_eq!(read("[::1]").unwrap().to_string(), "::1/128");
        assert_eq!(read("0.0.0.0/0:53").unwrap().ports(), Some((53, 53)));
        for text in [
            "",
            "/tcp",
            "10.0.0.0/33",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:90-80",
            "10.0.0.1:+1",
            "10.0.0.1/icmp",
            "[10.0.0.1]:80",
            "[::1]80",
            "example.org:443",
            "10.0.0.1:1-2-3",
            "[::1",
        ] {
            assert!(matches!(read(text), Err(EgressError::NoRule(_))), "{text}");
        }
        assert_eq!("all,public".parse::<Egress>(), Err(EgressError::Alone("all")));
        assert_eq!("10.0.0.1,none".parse::<Egress>(), Err(EgressError::Alone("none")));
        assert_eq!(Egress::new([]), Ok(Egress::All));
        let many = (0..=128u8).map(|n| {
            EgressRule::To(
                Destination::new(Cidr::new([10, 0, 0, n].into(), 32).unwrap(), None, None).unwrap(),
            )
        });
        assert_eq!(Egress::new(many), Err(EgressError::TooMany));
    }
}
