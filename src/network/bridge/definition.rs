//! What a network is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::BridgeError;

/// Name of the network that containers are on by default.
pub const DEFAULT: &str = "bridge";

/// Its bridge, where that name is free.
pub const DEFAULT_BRIDGE: &str = "ampoule0";

/// How the names of other networks' bridges begin; the rest is the beginning of the network's id.
const BRIDGE: &str = "amp-";

/// Words that `--network` has another meaning for.
const RESERVED: [&str; 6] = ["none", "host", "container", "user", "default", "netns"];

/// Longest name.
const LONGEST_NAME: usize = 64;

/// MTU where nothing is said of it.
pub const DEFAULT_MTU: u32 = 1500;

/// What an MTU can be: below 1280 there is no IPv6, above 65521 no tap.
pub const MTUS: std::ops::RangeInclusive<u32> = 68..=65_521;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Its bridge on the host.
    pub bridge: String,
    /// Hardware address of that.
    pub mac: [u8; 6],
    /// Its addresses: at most one subnet of each family, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Nothing leads out of it or into it.
    pub internal: bool,
    /// Its containers may speak to each other.
    pub icc: bool,
    /// What leaves it has the host's address.
    pub masquerade: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Labels, which mean nothing here.
    pub labels: BTreeMap<String, String>,
}

/// A subnet, and the host's own address in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// The subnet, as the address that it begins with.
    pub subnet: IpNet,
    /// The host's address.
    pub gateway: IpAddr,
    /// The part of it that containers get addresses from by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
}

/// What a new network is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Subnets; one of a free pool where there is none of IPv4.
    pub subnets: Vec<IpNet>,
    /// Gateways in them.
    pub gateways: Vec<IpAddr>,
    /// Parts of them.
    pub ranges: Vec<IpNet>,
    /// It has IPv6, too.
    pub ipv6: bool,
    /// As in [`Network`].
    pub internal: bool,
    /// As in [`Network`].
    pub icc: bool,
    /// As in [`Network`].
    pub masquerade: bool,
    /// As in [`Network`].
    pub mtu: u32,
    /// As in [`Network`].
    pub labels: BTreeMap<String, String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            subnets: Vec::new(),
            gateways: Vec::new(),
            ranges: Vec::new(),
            ipv6: true,
            internal: false,
            icc: true,
            masquerade: true,
            mtu: DEFAULT_MTU,
            labels: BTreeMap::new(),
        }
    }
}

impl Network {
    /// Whether it is the one that is always there.
    pub fn is_default(&self) -> bool {
        self.name == DEFAULT
    }

    /// First 12 digits of the id, as people see it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// Its addresses on the host.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.subnets.iter().map(|subnet| subnet.gateway)
    }

    /// What is wrong with one that was read: the name of the field.
    pub fn invalid(&self, name: &str) -> Option<&'static str> {
        let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.id.len() != 64 || !hexadecimal(&self.id) {
            return Some("id");
        }
        if self.name != name {
            return Some("name");
        }
        let own = self.bridge == bridge_of(&self.id);
        let default = self.is_default() && self.bridge == DEFAULT_BRIDGE;
        if !own && !default {
            return Some("bridge");
        }
        if self.subnets.len() > 2 || self.subnets.iter().any(|subnet| subnet.check().is_err()) {
            return Some("subnets");
        }
        (!MTUS.contains(&self.mtu)).then_some("mtu")
    }
}

impl Subnet {
    /// A subnet with a gateway: the first address where none is named.
    pub fn new(
        subnet: IpNet,
        gateway: Option<IpAddr>,
        range: Option<IpNet>,
    ) -> Result<Self, BridgeError> {
        let subnet = subnet.trunc();
        // The first of all is nobody's, in either family.
        let first = || subnet.hosts().find(|address| *address != subnet.network());
        let gateway = gateway.or_else(first).unwrap_or_else(|| subnet.network());
        let this = Self { subnet, gateway, range: range.map(|range| range.trunc()) };
        this.check().map_err(|reason| BridgeError::Subnet { subnet, reason })?;
        Ok(this)
    }

    fn check(&self) -> Result<(), &'static str> {
        let Self { subnet, gateway, range } = self;
        let most = if matches!(subnet, IpNet::V4(_)) { 30 } else { 126 };
        let network = subnet.network();
        if subnet.prefix_len() > most {
            Err("it has no room for a container beside its gateway")
        } else if subnet.prefix_len() < 8 {
            Err("it is larger than networks are")
        } else if network.is_multicast() || network.is_loopback() || network.is_unspecified() {
            Err("its addresses are nobody's to have")
        } else if !subnet.contains(gateway)
            || *gateway == network
            || (gateway.is_ipv4() && *gateway == subnet.broadcast())
        {
            Err("its gateway is none of its addresses")
        } else if range.is_some_and(|range| !subnet.contains(&range)) {
            Err("the range is not within it")
        } else {
            Ok(())
        }
    }
}

/// Whether a network can have this name.
pub fn check_name(name: &str) -> Result<(), BridgeError> {
    let fits = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !fits {
        return Err(BridgeError::Name(name.to_owned()));
    }
    match RESERVED.contains(&name) {
        true => Err(BridgeError::Reserved(name.to_owned())),
        false => Ok(()),
    }
}

/// Name of the bridge of the network with this id.
pub fn bridge_of(id: &str) -> String {
    format!("{BRIDGE}{}", id.get(..11).unwrap_or(id))
}

/// Hardware address that a bridge has for good: it would otherwise be that of one of its ports.
pub fn mac_of(id: &str) -> [u8; 6] {
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    for (to, n) in mac.iter_mut().skip(2).zip((0..).step_by(2)) {
        *to = id.get(n..n + 2).and_then(|two| u8::from_str_radix(two, 16).ok()).unwrap_or(0);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str, gateway: Option<&str>) -> Result<Subnet, BridgeError> {
        Subnet::new(text.parse().unwrap(), gateway.map(|text| text.parse().unwrap()), None)
    }

    #[test]
    fn the_first_address_is_the_gateway_unless_another_is() {
        let made = subnet("10.1.2.3/16", None).unwrap();
        assert_eq!(
            (made.subnet.to_string(), made.gateway.to_string()),
            ("10.1.0.0/16".into(), "10.1.0.1".into())
        );
        assert_eq!(subnet("fd00::/64", None).unwrap().gateway.to_string(), "fd00::1");
        let made = subnet("10.1.0.0/16", Some("10.1.255.254")).unwrap();
        assert_eq!(made.gateway.to_string(), "10.1.255.254");
    }

    #[test]
    fn subnets_that_make_no_sense_are_refused() {
        for (text, gateway) in [
            ("10.0.0.0/31", None),
            ("0.0.0.0/0", None),
            ("127.0.0.0/8", None),
            ("224.0.0.0/8", None),
            ("10.0.0.0/24", Some("10.0.1.1")),
            ("10.0.0.0/24", Some("10.0.0.0")),
            ("10.0.0.0/24", Some("10.0.0.255")),
            ("10.0.0.0/24", Some("fd00::1")),
            ("fd00::/127", None),
        ] {
            assert!(subnet(text, gateway).is_err(), "{text} {gateway:?}");
        }
    }

    #[test]
    fn names_are_harmless_and_mean_nothing_else() {
        for name in ["web", "a", "a_b.c-d", "bridge"] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "-x", "a/b", "a b", "none", "host", "user", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(bridge_of(&id), "amp-0123456789a");
        assert_eq!(mac_of(&id), [2, 0x42, 1, 0x23, 0x45, 0x67]);
    }
}
