//! What the containers of a network are called: read from its leases whenever somebody asks.

use std::net::{IpAddr, SocketAddr};

use super::files::Resolver;
use crate::network::bridge::{Lease, NetworkStore, port};
use crate::network::dns::Names;

/// Port at which name servers are asked.
const PORT: u16 = 53;

/// The names of some networks.
#[derive(Debug)]
pub struct OfNetworks {
    store: NetworkStore,
    networks: Vec<String>,
}

impl OfNetworks {
    /// Those of these networks.
    pub fn new(store: NetworkStore, networks: Vec<String>) -> Self {
        Self { store, networks }
    }

    /// The leases of those who live, with their network's name.
    fn leases(&self) -> impl Iterator<Item = (String, Lease)> + '_ {
        self.networks.iter().flat_map(|name| {
            let network = self.store.get(name).ok();
            let leases = network.and_then(|network| port::alive(&self.store, &network).ok());
            leases.unwrap_or_default().into_iter().map(|lease| (name.clone(), lease))
        })
    }
}

/// Whether a container of this network is meant by a name, be it that the network's own follows.
fn is_called(lease: &Lease, network: &str, name: &str) -> bool {
    let short = name.strip_suffix(network).and_then(|rest| rest.strip_suffix('.'));
    let is = |own: &String| {
        own.eq_ignore_ascii_case(name) || short.is_some_and(|short| own.eq_ignore_ascii_case(short))
    };
    lease.names.iter().any(is)
}

impl Names for OfNetworks {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let called = self.leases().filter(|(network, lease)| is_called(lease, network, name));
        let all: Vec<IpAddr> = called.flat_map(|(_, lease)| lease.addresses).collect();
        (!all.is_empty()).then_some(all)
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        let mut leases = self.leases();
        let (network, lease) = leases.find(|(_, lease)| lease.addresses.contains(&address))?;
        Some(format!("{}.{network}", lease.names.first()?))
    }

    fn upstreams(&self, client: IpAddr) -> Vec<SocketAddr> {
        let own = self.leases().find(|(_, lease)| lease.addresses.contains(&client));
        let own = own.map(|(_, lease)| lease.dns).unwrap_or_default();
        // Who asks here is this host, which its own resolver may answer, too.
        let servers = if own.is_empty() { Resolver::asked_by_host() } else { own };
        servers.into_iter().map(|server| SocketAddr::new(server, PORT)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::egress::Egress;

    #[test]
    fn a_container_is_called_by_each_of_its_names_and_with_its_networks() {
        let lease = Lease {
            owner: "1".repeat(64),
            tap: "t".into(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: Vec::new(),
            names: vec!["web".into(), "www".into()],
            dns: Vec::new(),
            egress: Egress::default(),
            published: Vec::new(),
        };
        for name in ["web", "WEB", "www", "web.front"] {
            assert!(is_called(&lease, "front", name), "{name}");
        }
        for name in ["", "front", "webfront", "web.back", "x.web", ".front"] {
            assert!(!is_called(&lease, "front", name), "{name}");
        }
    }
}
