//! Who has which addresses of a network.

use std::net::IpAddr;

use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use super::definition::{Network, Subnet};
use super::error::BridgeError;
use super::pool;
use crate::network::egress::Egress;
use crate::network::firewall::Published;

/// What a container has of a network, and all that its rules are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Id of the container.
    pub owner: String,
    /// Its tap: the lease is good as long as that is there.
    pub tap: String,
    /// Hardware address of the guest's interface.
    pub mac: [u8; 6],
    /// Its addresses, one of each family of the network.
    pub addresses: Vec<IpAddr>,
    /// Names that others on the network know it by.
    pub names: Vec<String>,
    /// Who answers what nobody on the network is called; the host's own where there is none.
    pub dns: Vec<IpAddr>,
    /// Where it may send to.
    pub egress: Egress,
    /// Ports of the host that lead to it.
    pub published: Vec<Published>,
}

impl Lease {
    /// Whether the one that it was made for has its tap still.
    pub fn is_alive(&self) -> bool {
        if_nametoindex(self.tap.as_str()).is_ok()
    }
}

/// Addresses that somebody asks for by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Of the newer or the older protocol, or neither.
    pub four: Option<IpAddr>,
    /// Of the newer one.
    pub six: Option<IpAddr>,
    /// Of the interface.
    pub mac: Option<[u8; 6]>,
}

/// Addresses of a network that none of `leases` has. Pure.
///
/// # Errors
/// There are none left, or what was asked for is somebody's, or nobody's to have.
pub fn choose(
    network: &Network,
    leases: &[Lease],
    asked: Asked,
) -> Result<([u8; 6], Vec<IpAddr>), BridgeError> {
    let used = |address: IpAddr| leases.iter().any(|lease| lease.addresses.contains(&address));
    let subnet = |four: bool| network.subnets.iter().find(|s| s.gateway.is_ipv4() == four);
    let named = |address: IpAddr, subnet: Option<&Subnet>| {
        let refused =
            |reason| BridgeError::Address { address, network: network.name.clone(), reason };
        let subnet = subnet.ok_or_else(|| refused("the network has no such subnet"))?;
        pool::is_usable(subnet, address).map_err(refused)?;
        match used(address) {
            true => Err(BridgeError::Taken { address, network: network.name.clone() }),
            false => Ok(address),
        }
    };
    let exhausted = || BridgeError::Exhausted(network.name.clone());
    let mut addresses = Vec::new();
    match (asked.four, subnet(true)) {
        (Some(address), subnet) => addresses.push(named(address, subnet)?),
        (None, Some(subnet)) => {
            addresses.push(pool::free_address(subnet, used).ok_or_else(exhausted)?);
        }
        (None, None) => {}
    }
    match (asked.six, subnet(false)) {
        (Some(address), subnet) => addresses.push(named(address, subnet)?),
        (None, Some(six)) => {
            let beside = match (addresses.first(), subnet(true)) {
                (Some(IpAddr::V4(address)), Some(four)) => pool::beside(four, *address, six),
                _ => None,
            };
            let free = beside.filter(|address| !used(*address));
            let free = free.or_else(|| pool::free_address(six, used)).ok_or_else(exhausted)?;
            addresses.push(free);
        }
        (None, None) => {}
    }
    let own = addresses.first().copied().map_or([0x02, 0x42, 0, 0, 0, 1], pool::mac_of);
    let mac = asked.mac.unwrap_or(own);
    if mac == network.mac || leases.iter().any(|lease| lease.mac == mac) {
        let address = addresses.first().copied().unwrap_or(IpAddr::V4([0, 0, 0, 0].into()));
        let (network, reason) = (network.name.clone(), "its hardware address is another one's");
        return Err(BridgeError::Address { address, network, reason });
    }
    Ok((mac, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnets: &[&str]) -> Network {
        let subnet = |text: &&str| Subnet::new(text.parse().unwrap(), None, None).unwrap();
        Network {
            id: "0".repeat(64),
            name: "web".into(),
            created: jiff::Timestamp::now(),
            bridge: "amp-00000000000".into(),
            mac: [2, 0x42, 0, 0, 0, 0],
            subnets: subnets.iter().map(subnet).collect(),
            internal: false,
            icc: true,
            masquerade: true,
            mtu: 1500,
            labels: std::collections::BTreeMap::new(),
        }
    }

    fn lease(mac: [u8; 6], addresses: Vec<IpAddr>) -> Lease {
        Lease {
            owner: "1".repeat(64),
            tap: "no such tap".into(),
            mac,
            addresses,
            names: Vec::new(),
            dns: Vec::new(),
            egress: Egress::default(),
            published: Vec::new(),
        }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_gets_one_of_each_family_and_a_name_on_the_wire() {
        let network = network(&["10.0.0.0/24", "fd00::/64"]);
        let mut leases = Vec::new();
        for n in 2..5 {
            let (mac, addresses) = choose(&network, &leases, Asked::default()).unwrap();
            assert_eq!(texts(&addresses), [format!("10.0.0.{n}"), format!("fd00::{n}")]);
            assert_eq!(mac, [2, 0x42, 10, 0, 0, n]);
            leases.push(lease(mac, addresses));
        }
        assert!(!leases[0].is_alive());
    }

    #[test]
    fn what_is_asked_for_is_had_or_refused() {
        let network = network(&["10.0.0.0/24", "fd00::/64"]);
        let ask = |text: &str| Asked { four: Some(text.parse().unwrap()), ..Asked::default() };
        let (mac, addresses) = choose(&network, &[], ask("10.0.0.9")).unwrap();
        assert_eq!(texts(&addresses), ["10.0.0.9", "fd00::9"]);
        let leases = [lease(mac, addresses)];
        assert!(matches!(
            choose(&network, &leases, ask("10.0.0.9")),
            Err(BridgeError::Taken { .. })
        ));
        for nobodys in ["10.0.0.1", "10.0.0.0", "10.0.0.255", "10.0.1.1"] {
            assert!(matches!(
                choose(&network, &leases, ask(nobodys)),
                Err(BridgeError::Address { .. })
            ));
        }
        let same = Asked { mac: Some(mac), ..Asked::default() };
        assert!(choose(&network, &leases, same).is_err());
    }

    #[test]
    fn a_network_that_is_full_says_so() {
        let network = network(&["10.0.0.0/30"]);
        let (mac, addresses) = choose(&network, &[], Asked::default()).unwrap();
        let full = choose(&network, &[lease(mac, addresses)], Asked::default());
        assert!(matches!(full, Err(BridgeError::Exhausted(_))));
    }
}
