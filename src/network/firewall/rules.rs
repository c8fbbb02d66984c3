//! What is asked of the firewall.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ampoule_protocol::message::Cidr;
use serde::{Deserialize, Serialize};

use crate::network::egress::Egress;

/// A network: a bridge, and what may pass it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRules {
    /// Name of its bridge.
    pub bridge: String,
    /// What its containers' addresses are of. Those of two networks have nothing in common.
    pub subnets: Vec<Cidr>,
    /// What leaves by another interface has that interface's address.
    pub masquerade: bool,
    /// Nothing leaves or enters; of the host, its containers reach the name server.
    pub internal: bool,
    /// Its containers speak to each other.
    pub icc: bool,
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRules {
    /// Name of its tap, which is part of the bridge.
    pub tap: String,
    /// Name of the bridge, of a network that was added.
    pub bridge: String,
    /// Hardware address of the guest's interface.
    pub mac: [u8; 6],
    /// The guest's addresses there, without the link-local one that follows from `mac`.
    pub addresses: Vec<IpAddr>,
    /// What the guest may open connections to.
    pub egress: Egress,
    /// Ports of the host that lead to the guest.
    pub published: Vec<Published>,
}

/// Families of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub four: bool,
    /// IPv6.
    pub six: bool,
}

/// A port of the host that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Which of the host's addresses; every one of the family of `container` where it is none, or
    /// unspecified.
    pub host: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Address of the container.
    pub container: IpAddr,
    /// Port of the container.
    pub container_port: u16,
    /// Of which protocol both are.
    pub protocol: Protocol,
}

/// A protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in headers of IP.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A word that is no protocol with ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol with ports: tcp, udp or sctp")]
pub struct NoProtocol(String);

impl FromStr for Protocol {
    type Err = NoProtocol;

    fn from_str(text: &str) -> Result<Self, NoProtocol> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => Err(NoProtocol(other.chars().take(32).collect())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}
