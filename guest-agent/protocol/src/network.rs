//! What a network interface of a guest is to be like, and what a pod's containers share.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Network interfaces that a guest has at most: slots of its machine.
pub const MAX_INTERFACES: usize = 4;

/// Longest name of an interface, in bytes.
pub const MAX_NAME: usize = 15;

/// Folder of the guest where a pod's namespaces are, each a file named as in `/proc/PID/ns`:
/// `net`, `ipc`, `uts`, and `pid`, which is made for the first container that wants it. Containers
/// name them in `linux.namespaces`. The directory `shm` there is their shared memory, to be bound over
/// `/dev/shm`.
pub const POD_NAMESPACES: &str = "/run/ampoule/pod";

/// What the containers of a pod share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Host name; the guest's own where it is empty.
    pub hostname: String,
    /// Kernel parameters of the pod's namespaces, by name as in `linux.sysctl`.
    pub sysctls: BTreeMap<String, String>,
}

/// Whose network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkNamespace {
    /// The pod's.
    Pod,
    /// That of a container, which has its own.
    Container(String),
}

/// A network interface and what goes over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Which of the machine's network devices it is; the first one has number 0.
    pub slot: u8,
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet; the device's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Its addresses. They bring no routes of their own: see [`Interface::routes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
    /// All of its routes, those to its own networks too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Neighbours that are known for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
}

impl Interface {
    /// Name of the first one.
    pub const FIRST: &str = "eth0";

    /// Whether it is the device and has the name that the agent may have made ready: see
    /// [`Create::networked`](crate::message::Create::networked).
    pub fn is_first(&self) -> bool {
        self.slot == 0 && self.name == Self::FIRST
    }
}

/// A route over an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Cidr,
    /// By way of whom; nobody where those are neighbours. May be of the other family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The sender's address that is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Which of several is taken: the lowest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// `RT_SCOPE_*`: how far away it is.
    #[serde(default)]
    pub scope: u8,
    /// The gateway is a neighbour, even if no address says so.
    #[serde(default)]
    pub on_link: bool,
}

/// Somebody who is reached without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// An address and how much of it is the network's, such as `192.0.2.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no address with its prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address in CIDR notation")]
pub struct NoCidr(String);

impl Cidr {
    /// None where an address has fewer bits than that.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits that are the network's.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NoCidr;

    fn from_str(text: &str) -> Result<Self, NoCidr> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Self::new(address.parse().ok()?, prefix.parse().ok()?));
        parsed.ok_or_else(|| NoCidr(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = NoCidr;

    fn try_from(text: String) -> Result<Self, NoCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_are_read_as_they_are_written(address: IpAddr, prefix: u8) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let cidr = Cidr::new(address, prefix);
            prop_assert_eq!(cidr.is_some(), prefix <= bits);
            if let Some(cidr) = cidr {
                let text = serde_json::to_string(&cidr).unwrap();
                prop_assert_eq!(serde_json::from_str::<Cidr>(&text).unwrap(), cidr);
            }
        }

        #[test]
        fn any_text_is_an_address_or_refused(text in ".{0,40}") {
            if let Ok(cidr) = text.parse::<Cidr>() {
                prop_assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(cidr));
            }
        }
    }
}
