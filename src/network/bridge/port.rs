//! A container's place at a network: its lease, its tap at the bridge, its rules.

use std::fs::File;
use std::net::IpAddr;

use ampoule_protocol::message::{Cidr, Interface, Neighbour, Route};
use ipnet::IpNet;
use rtnetlink::Handle;

use super::definition::Network;
use super::error::BridgeError;
use super::forwarding;
use super::leases::{self, Asked, Lease};
use super::link::{self, Found};
use super::store::NetworkStore;
use crate::network::conntrack;
use crate::network::egress::Egress;
use crate::network::firewall::{Firewall, FirewallError, NetworkRules, PortRules, Published};
use crate::network::publish::{Publish, Reserved};
use crate::vmm::devices::virtio::net;

/// What a container is to have of a network.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// Id of the container: 64 hexadecimal digits.
    pub owner: String,
    /// Which of the guest's network devices it is.
    pub slot: u8,
    /// Names that others on the network know it by.
    pub names: Vec<String>,
    /// Addresses that were asked for.
    pub asked: Asked,
    /// Where it may send to.
    pub egress: Egress,
    /// Ports to be published.
    pub publish: Vec<Publish>,
    /// Who answers what nobody on the network is called.
    pub dns: Vec<IpAddr>,
    /// Queues of its device.
    pub queues: u8,
}

/// A container's place at a network. Dropped, all is undone.
#[derive(Debug)]
pub struct Port {
    store: NetworkStore,
    /// The network.
    pub network: Network,
    /// What the container has of it.
    pub lease: Lease,
    /// Which of the guest's network devices it is.
    pub slot: u8,
    /// Its tap, a descriptor for each queue, until the monitor has them.
    taps: Vec<File>,
    /// Held as long as the ports of the host lead here.
    _reserved: Vec<Reserved>,
    undone: bool,
}

impl Port {
    /// Makes all of it; on failure nothing is left.
    pub fn open(
        store: &NetworkStore,
        network: Network,
        endpoint: Endpoint,
    ) -> Result<Self, BridgeError> {
        let reserved = endpoint.publish.iter().map(Reserved::new).collect::<Result<Vec<_>, _>>()?;
        let tap = tap_of(&endpoint.owner, endpoint.slot);
        // Before the lease, which is good because of it.
        let taps = net::open_queues(&tap, endpoint.queues.clamp(1, MAX_QUEUES))?;
        link::speak(async |handle| {
            let (network, bridge, lease) =
                take(&handle, store, network, &endpoint, &reserved).await?;
            let mut port = Self {
                store: store.clone(),
                network,
                lease,
                slot: endpoint.slot,
                taps,
                _reserved: reserved,
                undone: false,
            };
            // Dropped on failure, which undoes what there is.
            port.connect(&handle, bridge).await?;
            Ok(port)
        })
    }

    /// Rules first: nothing passes before them.
    async fn connect(&mut self, handle: &Handle, bridge: u32) -> Result<(), BridgeError> {
        let mut firewall = Firewall::open()?;
        match firewall.add_port(&rules_of(&self.network, &self.lease)) {
            // Somebody flushed the tables of the host, or they were never made.
            Err(error) if is_missing(&error) => restore(&mut firewall, &self.store)?,
            added => added?,
        }
        link::plug(handle, &self.lease.tap, bridge, self.network.mtu).await?;
        if !self.lease.published.is_empty() {
            link::turn_back(handle, &self.lease.tap).await;
        }
        Ok(())
    }

    /// Its rules, and its network's.
    pub(super) fn rules(&self) -> (NetworkRules, PortRules) {
        (rules_of_network(&self.network), rules_of(&self.network, &self.lease))
    }

    /// The tap, to be plugged into the guest's device.
    pub fn take_taps(&mut self) -> Vec<File> {
        std::mem::take(&mut self.taps)
    }

    /// What the guest is told of it. Its routes lead everywhere, where none does of those that came `before`: the
    /// kernel takes the next one's when an interface goes.
    pub fn interface(&self, name: &str, before: u32) -> Interface {
        let Self { network, lease, slot, .. } = self;
        let mut interface = Interface {
            slot: *slot,
            name: name.to_owned(),
            mac: lease.mac,
            mtu: Some(network.mtu),
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
        };
        for subnet in &network.subnets {
            let same = |address: &&IpAddr| address.is_ipv4() == subnet.gateway.is_ipv4();
            let Some(address) = lease.addresses.iter().find(same) else { continue };
            let prefix = subnet.subnet.prefix_len();
            interface.addresses.extend(Cidr::new(*address, prefix));
            interface.routes.extend(route(subnet.subnet, None));
            if !network.internal {
                let everywhere = match subnet.subnet {
                    IpNet::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
                    IpNet::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
                };
                // IPv6's have 1024 where nothing is said.
                let metric = (before > 0).then(|| before.saturating_add(1024));
                let everywhere = route(everywhere, Some(subnet.gateway));
                interface.routes.extend(everywhere.map(|route| Route { metric, ..route }));
            }
            // The bridge's address never changes: it need not be asked for, and nobody else can claim it.
            interface.neighbours.push(Neighbour { address: subnet.gateway, mac: network.mac });
        }
        interface
    }

    /// Undoes it: the guest is gone, or is not to have its place any more.
    pub fn close(mut self) -> Result<(), BridgeError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), BridgeError> {
        if std::mem::replace(&mut self.undone, true) {
            return Ok(());
        }
        self.taps.clear();
        // Before the lease goes: whoever has its addresses next is not to lose rules by it.
        let locked = self.store.lock();
        let rules = rules_of(&self.network, &self.lease);
        let removed = Firewall::open().and_then(|mut firewall| firewall.remove_port(&rules));
        drop(locked);
        // No start waits for this.
        forget(&self.lease);
        let _locked = self.store.lock()?;
        let mut leases = self.store.leases(&self.network)?;
        leases.retain(|lease| lease.tap != self.lease.tap);
        self.store.write_leases(&self.network, &leases)?;
        Ok(removed?)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            log::warn!("{}", crate::report::chain(&error));
        }
    }
}

/// Name of the tap of a container's device.
fn tap_of(owner: &str, slot: u8) -> String {
    format!("{TAP}{}{}", owner.get(..11).unwrap_or(owner), slot % 10)
}

/// How the names of taps begin.
const TAP: &str = "amp";

/// Most queues of a device: pairs of queues that a guest has.
const MAX_QUEUES: u8 = 4;

/// A lease of a network whose bridge is there: with the bridge's index.
async fn take(
    handle: &Handle,
    store: &NetworkStore,
    network: Network,
    endpoint: &Endpoint,
    reserved: &[Reserved],
) -> Result<(Network, u32, Lease), BridgeError> {
    let _locked = store.lock()?;
    // It may have been removed meanwhile.
    let network = store.get(&network.name)?;
    let (network, bridge) = ensure(handle, store, network).await?;
    let mut leases = bury(&network, store.leases(&network)?);
    let (mac, addresses) = leases::choose(&network, &leases, endpoint.asked)?;
    let leads = reserved.iter().flat_map(|reserved| reserved.leads_to(&addresses));
    let published: Vec<Published> = leads.collect();
    let lease = Lease {
        owner: endpoint.owner.clone(),
        tap: tap_of(&endpoint.owner, endpoint.slot),
        mac,
        addresses,
        names: endpoint.names.clone(),
        dns: endpoint.dns.clone(),
        egress: endpoint.egress.clone(),
        published,
    };
    leases.retain(|other| other.tap != lease.tap);
    leases.push(lease.clone());
    store.write_leases(&network, &leases)?;
    Ok((network, bridge, lease))
}

/// The bridge of a network, made where it is not there. The caller has the store's lock.
async fn ensure(
    handle: &Handle,
    store: &NetworkStore,
    network: Network,
) -> Result<(Network, u32), BridgeError> {
    match link::find(handle, &network).await? {
        Found::Ours(index) => return Ok((network, index)),
        Found::Foreign if !network.is_default() => {
            return Err(BridgeError::Foreign(network.bridge));
        }
        Found::Foreign | Found::Missing => {}
    }
    // Others make bridges, too, with data folders of their own.
    let _alone = alone()?;
    let host = link::subnets(handle).await?;
    let clash = |subnet: &super::Subnet| {
        host.iter().find(|other| super::pool::overlap(&subnet.subnet, other)).copied()
    };
    let clash = network.subnets.iter().find_map(|subnet| Some((subnet.subnet, clash(subnet)?)));
    let foreign = link::find(handle, &network).await? == Found::Foreign;
    let network = match clash {
        // Nobody has chosen its addresses.
        _ if network.is_default() && (foreign || clash.is_some()) => {
            store.redefine_default(&host)?
        }
        Some((wanted, other)) => {
            return Err(BridgeError::Overlap { wanted, other, whose: "the host".to_owned() });
        }
        None => network,
    };
    let index = link::make(handle, &network).await?;
    if let Err(error) = open_network(store, &network) {
        // Half of it would be taken for the whole.
        let _ = link::remove(handle, &network).await;
        return Err(error);
    }
    // Somebody may have removed the bridge under those who were on it.
    for lease in store.leases(&network)?.iter().filter(|lease| lease.is_alive()) {
        if let Err(error) = link::plug(handle, &lease.tap, index, network.mtu).await {
            log::debug!("{}", crate::report::chain(&error));
        }
    }
    Ok((network, index))
}

/// The rules of a network whose bridge is made, and then its way out.
fn open_network(store: &NetworkStore, network: &Network) -> Result<(), BridgeError> {
    let mut firewall = Firewall::open()?;
    firewall.ensure()?;
    firewall.add_network(&rules_of_network(network))?;
    if network.internal {
        return Ok(());
    }
    let six = network.gateways().any(|gateway| gateway.is_ipv6());
    forwarding::turn_on(&mut firewall, six, store.settings().close_forwarding)
}

/// Makes all rules anew that there are to be.
pub fn restore(firewall: &mut Firewall, store: &NetworkStore) -> Result<(), BridgeError> {
    let _locked = store.lock()?;
    // Keepers put their own back meanwhile.
    let _alone = alone()?;
    firewall.ensure()?;
    forwarding::put_back(firewall, store.settings().close_forwarding)?;
    for network in store.list()? {
        let alive = alive(store, &network)?;
        let ports: Vec<_> = alive.iter().map(|lease| rules_of(&network, lease)).collect();
        firewall.put_back(&rules_of_network(&network), &ports.iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Removes the bridge and the rules of a network that nobody is on, and forgets it.
pub fn remove(store: &NetworkStore, network: &Network) -> Result<(), BridgeError> {
    let name = network.name.clone();
    if network.is_default() {
        return Err(BridgeError::Predefined(name));
    }
    let _locked = store.lock()?;
    let users: Vec<String> = alive(store, network)?.into_iter().map(|lease| lease.owner).collect();
    if !users.is_empty() {
        return Err(BridgeError::InUse { name, users });
    }
    take_down(network)?;
    store.forget(network)
}

/// Removes what there is of a network on the host.
fn take_down(network: &Network) -> Result<(), BridgeError> {
    Firewall::open()?.remove_network(&network.bridge)?;
    link::speak(async |handle| link::remove(&handle, network).await)
}

/// The leases of those who are there.
pub fn alive(store: &NetworkStore, network: &Network) -> Result<Vec<Lease>, BridgeError> {
    let mut leases = store.leases(network)?;
    leases.retain(Lease::is_alive);
    Ok(leases)
}

/// Clears away what killed keepers have left: leases and rules of taps that are gone.
pub fn sweep(store: &NetworkStore) -> Result<(), BridgeError> {
    for network in store.list()? {
        if store.leases(&network)?.iter().all(Lease::is_alive) {
            continue;
        }
        let _locked = store.lock()?;
        store.write_leases(&network, &bury(&network, store.leases(&network)?))?;
    }
    Ok(())
}

/// The leases of those who live; the rules of the others go. The caller has the lock.
fn bury(network: &Network, leases: Vec<Lease>) -> Vec<Lease> {
    let (alive, dead): (Vec<_>, Vec<_>) = leases.into_iter().partition(Lease::is_alive);
    let rules: Vec<_> = dead.iter().map(|lease| rules_of(network, lease)).collect();
    if !rules.is_empty() {
        let removed = Firewall::open().and_then(|mut firewall| {
            rules.iter().try_for_each(|rules| firewall.remove_port(rules))
        });
        // Nobody is kept from an address for that: what is in the way of the next one's rules is told then.
        if let Err(error) = removed {
            log::warn!("{}", crate::report::chain(&error));
        }
    }
    dead.iter().for_each(forget);
    alive
}

/// Forgets the connections of whom nobody is any more, those to its published ports among them: before somebody
/// else has its addresses, whose own they would be then.
fn forget(lease: &Lease) {
    // They end by their own time as well.
    if let Err(error) = conntrack::forget(&lease.addresses) {
        log::debug!("{}", crate::report::chain(&error));
    }
}

/// Whether it is said of something that the tables or their chains are not there.
fn is_missing(error: &FirewallError) -> bool {
    if matches!(error, FirewallError::NoNetwork { .. }) {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT)) {
            return true;
        }
        source = error.source();
    }
    false
}

/// The subnets that the host has a use for already.
pub fn host_subnets() -> Result<Vec<IpNet>, BridgeError> {
    link::speak(async |handle| link::subnets(&handle).await)
}

fn rules_of(network: &Network, lease: &Lease) -> PortRules {
    PortRules {
        tap: lease.tap.clone(),
        bridge: network.bridge.clone(),
        mac: lease.mac,
        addresses: lease.addresses.clone(),
        egress: lease.egress.clone(),
        published: lease.published.clone(),
    }
}

fn rules_of_network(network: &Network) -> NetworkRules {
    let cidr =
        |subnet: &super::Subnet| Cidr::new(subnet.subnet.network(), subnet.subnet.prefix_len());
    NetworkRules {
        bridge: network.bridge.clone(),
        subnets: network.subnets.iter().filter_map(cidr).collect(),
        masquerade: network.masquerade,
        internal: network.internal,
        icc: network.icc,
    }
}

fn route(destination: IpNet, gateway: Option<IpAddr>) -> Option<Route> {
    Some(Route {
        destination: Cidr::new(destination.network(), destination.prefix_len())?,
        gateway,
        source: None,
        metric: None,
        // As the kernel has it: of a neighbour, or of anywhere.
        scope: if gateway.is_none() && destination.network().is_ipv4() { 253 } else { 0 },
        on_link: false,
    })
}

/// Held while a bridge is made, or rules that somebody removed, by everybody on this host.
pub(super) fn alone() -> Result<nix::fcntl::Flock<File>, BridgeError> {
    let path = std::path::Path::new("/run/ampoule-network.lock");
    let lock = File::create(path).map_err(super::error::file("open", path))?;
    nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| super::error::file("lock", path)(errno.into()))
}
