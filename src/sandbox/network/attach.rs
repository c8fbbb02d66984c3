//! A container's places at networks: made while its guest starts, given to that, undone at its end.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use ampoule_protocol::message::{self, NetworkNamespace, Request, SmallFile};
use nix::unistd::geteuid;

use super::OnNetwork;
use super::error::AttachError;
use super::files::{Resolver, hosts};
use super::names::OfNetworks;
use super::options::{Attachment, NetworkMode, NetworkOptions};
use crate::network::bridge::leases::Asked;
use crate::network::bridge::port::host_subnets;
use crate::network::bridge::{Endpoint, Guard, Network, NetworkStore, Port, definition};
use crate::network::dns::DnsServer;
use crate::network::egress::Egress;
use crate::network::passt::{self, Passt};
use crate::network::{self, Joined};
use crate::report::chain;
use crate::sandbox::config::Config;
use crate::sandbox::container::CONTAINER;
use crate::sandbox::error::SandboxError;
use crate::sandbox::monitored::{Backend, Monitored, Nic};
use crate::sandbox::places::Places;
use crate::sandbox::rates::NetRates;

/// Names of the files that tell a container of its network, and where it finds them.
pub const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hosts", "/etc/hosts"), ("hostname", "/etc/hostname")];

/// Who is to be on a network.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Id of the container.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// vCPUs of its machine.
    pub vcpus: u8,
}

/// What a container has of networks. Dropped, all is undone.
#[derive(Debug, Default)]
pub struct Attached {
    /// The first to go: it does not put back what is being undone.
    guard: Option<Guard>,
    ports: Vec<Port>,
    /// How many there have been.
    count: u32,
    joined: Option<Joined>,
    passt: Option<Passt>,
    /// Taps of interfaces that were joined, until the monitor has them.
    taps: Vec<(message::Interface, File)>,
    /// What the guest is told.
    interfaces: Vec<message::Interface>,
    resolver: Resolver,
    dns: Vec<DnsServer>,
}

/// The networks of a data folder.
pub fn store(places: &Places) -> Result<NetworkStore, SandboxError> {
    Ok(NetworkStore::new(&places.data, Config::load()?.network.settings()))
}

impl Attached {
    /// Makes all that a container is to have.
    pub fn open(
        places: &Places,
        who: Who<'_>,
        options: &NetworkOptions,
    ) -> Result<Self, SandboxError> {
        let mut this = Self { resolver: Resolver::of_host().with(options), ..Self::default() };
        refuse_what_means_nothing(options)?;
        match &options.mode {
            NetworkMode::None | NetworkMode::Container(_) => {}
            NetworkMode::Networks(attachments) => {
                this.connect(&store(places)?, who, options, attachments)?;
            }
            NetworkMode::Namespace(path) => this.join(path)?,
            NetworkMode::User => {
                let passt = Passt::start(&options.publish).map_err(AttachError::Passt)?;
                this.interfaces.push(passt.interface("eth0"));
                if options.dns.is_empty() {
                    this.resolver.servers = vec![Passt::name_server()];
                }
                this.passt = Some(passt);
            }
        }
        Ok(this)
    }

    fn connect(
        &mut self,
        store: &NetworkStore,
        who: Who<'_>,
        options: &NetworkOptions,
        attachments: &[Attachment],
    ) -> Result<(), AttachError> {
        if !geteuid().is_root() {
            return Err(AttachError::NeedsRoot);
        }
        if attachments.len() > ampoule_protocol::network::MAX_INTERFACES {
            return Err(AttachError::TooMany(attachments.len()));
        }
        for (slot, attachment) in (0u8..).zip(attachments) {
            self.add(store, who, options, attachment, slot)?;
        }
        let none = self.resolver.servers.is_empty();
        let ports = self.ports.iter().filter(|port| none || !port.network.is_default());
        let networks: Vec<Network> = ports.map(|port| port.network.clone()).collect();
        if let Some(own) = self.serve_names(store, &networks) {
            self.resolver.servers = vec![own];
        }
        Ok(())
    }

    /// One more network, at a device of the guest's.
    fn add(
        &mut self,
        store: &NetworkStore,
        who: Who<'_>,
        options: &NetworkOptions,
        attachment: &Attachment,
        slot: u8,
    ) -> Result<(), AttachError> {
        let network = find(store, &attachment.network)?;
        let first = self.ports.is_empty();
        let mut names = vec![who.name.to_owned(), who.id.chars().take(12).collect()];
        names.extend(attachment.aliases.iter().cloned());
        let endpoint = Endpoint {
            owner: who.id.to_owned(),
            slot,
            names,
            asked: Asked { four: attachment.ipv4, six: attachment.ipv6, mac: attachment.mac },
            egress: options.egress.clone(),
            // By its first network: who comes over another one would be answered there.
            publish: if first { options.publish.clone() } else { Vec::new() },
            dns: options.dns.clone(),
            queues: who.vcpus,
        };
        // What is removed while the port is made is heard of, too.
        let guard = match self.guard.take() {
            Some(guard) => guard,
            None => Guard::start(store.settings())?,
        };
        let guard = self.guard.insert(guard);
        let port = Port::open(store, network, endpoint)?;
        guard.keep(&port);
        self.interfaces.push(port.interface(&format!("eth{slot}"), self.count));
        self.count = self.count.saturating_add(1);
        self.ports.push(port);
        Ok(())
    }

    /// Names are answered on networks that a user has made, and where the host asks only itself.
    /// Who answers them.
    fn serve_names(&mut self, store: &NetworkStore, networks: &[Network]) -> Option<IpAddr> {
        let gateways: Vec<IpAddr> = networks.iter().flat_map(Network::gateways).collect();
        let own = gateways.first().copied()?;
        let names = networks.iter().map(|network| network.name.clone()).collect();
        match DnsServer::start(&gateways, Arc::new(OfNetworks::new(store.clone(), names))) {
            Ok(server) => {
                self.dns.push(server);
                Some(own)
            }
            Err(error) => {
                eprintln!(
                    "ampoule: warning: names of containers are not answered, as port 53 of {own} \
                     cannot be had: {error}"
                );
                None
            }
        }
    }

    /// One more network, of a guest that runs, which has this many devices: what the agent is asked for.
    pub fn connect_one(
        &mut self,
        places: &Places,
        who: Who<'_>,
        options: &NetworkOptions,
        attachment: &Attachment,
        devices: u8,
    ) -> Result<Request, SandboxError> {
        let store = store(places)?;
        let free = |slot: &u8| !self.ports.iter().any(|port| port.slot == *slot);
        let slot = (0..devices).find(free).ok_or(AttachError::NoDevice)?;
        self.add(&store, who, options, attachment, slot)?;
        if let Some(port) = self.ports.last().filter(|port| !port.network.is_default()) {
            let network = port.network.clone();
            // Those that it has asked so far answer for their own networks.
            self.serve_names(&store, &[network]);
        }
        let interfaces = self.interfaces.last().cloned().into_iter().collect();
        Ok(Request::Network { namespace: own_namespace(), interfaces })
    }

    /// Which device and interface of the guest's a network has.
    pub fn place_of(&self, network: &str) -> Option<(u8, String)> {
        let port = self.ports.iter().find(|port| port.network.name == network)?;
        Some((port.slot, format!("eth{}", port.slot)))
    }

    /// Undoes one, whose interface the guest has let go of.
    pub fn disconnect_one(&mut self, slot: u8) -> Result<(), AttachError> {
        self.interfaces.retain(|interface| interface.slot != slot);
        let Some(index) = self.ports.iter().position(|port| port.slot == slot) else {
            return Ok(());
        };
        let port = self.ports.remove(index);
        if let Some(guard) = &self.guard {
            guard.let_go(&port.lease.tap);
        }
        Ok(port.close()?)
    }

    fn join(&mut self, path: &Path) -> Result<(), AttachError> {
        let namespace = File::open(path)
            .map_err(|source| AttachError::NoNamespace { path: path.to_owned(), source })?;
        let (joined, interfaces) = network::join(namespace.as_fd())
            .map_err(|source| AttachError::Namespace { path: path.to_owned(), source })?;
        self.joined = Some(joined);
        for interface in interfaces {
            self.interfaces.push(interface.guest.clone());
            self.taps.push((interface.guest, interface.tap));
        }
        Ok(())
    }

    /// Gives the taps to the guest's monitor, which has them from here on.
    pub fn plug(&mut self, guest: &mut Monitored, rates: &NetRates) -> Result<(), SandboxError> {
        let mut all: Vec<(u8, [u8; 6], String, Vec<File>)> = Vec::new();
        for port in &mut self.ports {
            let name = format!("eth{}", port.slot);
            let taps = port.take_taps();
            if !taps.is_empty() {
                all.push((port.slot, port.lease.mac, name, taps));
            }
        }
        for (interface, tap) in self.taps.drain(..) {
            all.push((interface.slot, interface.mac, interface.name, vec![tap]));
        }
        if let Some(socket) = self.passt.as_mut().and_then(Passt::take_socket) {
            let backend = Backend::Stream(socket.as_fd());
            let nic = Nic { mac: Some(passt::MAC), backend, rates };
            guest.plug_net(0, nic).map_err(not_given("eth0"))?;
        }
        for (slot, mac, name, taps) in all {
            let queues = taps.iter().map(AsFd::as_fd).collect();
            let nic = Nic { mac: Some(mac), backend: Backend::Tap(queues), rates };
            guest
                .plug_net(slot, nic)
                .map_err(|error| SandboxError::Interface { name, source: Box::new(error) })?;
        }
        Ok(())
    }

    /// What the agent is asked for once the container is there; nothing where it has no interface.
    pub fn request(&self) -> Option<Request> {
        (!self.interfaces.is_empty()).then(|| Request::Network {
            namespace: own_namespace(),
            interfaces: self.interfaces.clone(),
        })
    }

    /// Whether the container gets the interface that its guest may have made ready.
    pub fn has_first_interface(&self) -> bool {
        self.interfaces.iter().any(message::Interface::is_first)
    }

    /// What of a namespace the guest does not get, and why.
    pub fn warnings(&self) -> &[String] {
        self.joined.as_ref().map_or(&[], Joined::left_out)
    }

    /// What other commands tell of it.
    pub fn told(&self) -> Vec<OnNetwork> {
        let user = self.passt.as_ref().map(told_of_user);
        self.ports.iter().map(told).chain(user).collect()
    }

    /// The files that tell the container of it, with their places; but those that it has others for.
    pub fn files(
        &self,
        hostname: &str,
        options: &NetworkOptions,
        taken: impl Fn(&Path) -> bool,
    ) -> Vec<(SmallFile, &'static str)> {
        let own: Vec<IpAddr> = self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(|cidr| cidr.address())
            .collect();
        // With passt no address leads to the host itself.
        let gateway = self.ports.first().and_then(|port| port.network.gateways().next());
        let domain = options.domainname.as_deref();
        let contents = |name: &str| match name {
            "resolv.conf" => self.resolver.file(),
            "hosts" => hosts(hostname, domain, &own, &options.hosts, gateway),
            _ => format!("{hostname}\n"),
        };
        let wanted = FILES.iter().filter(|(_, place)| !taken(Path::new(place)));
        let file = |(name, place): &(&str, &'static str)| {
            (SmallFile { name: (*name).to_owned(), contents: contents(name) }, *place)
        };
        wanted.map(file).collect()
    }

    /// Undoes it: the guest has ended.
    pub fn close(self) -> Result<(), AttachError> {
        drop(self.guard);
        let mut result = Ok(());
        for port in self.ports {
            result = result.and(port.close().map_err(AttachError::from));
        }
        if let Some(joined) = self.joined
            && let Err(error) = joined.leave()
        {
            // Whoever laid it takes it away, too.
            log::debug!("{}", chain(&error));
        }
        result
    }
}

/// The container's own, in its guest.
pub fn own_namespace() -> NetworkNamespace {
    NetworkNamespace::Container(CONTAINER.to_owned())
}

fn not_given(name: &str) -> impl Fn(SandboxError) -> SandboxError + '_ {
    move |error| SandboxError::Interface { name: name.to_owned(), source: Box::new(error) }
}

fn told_of_user(passt: &Passt) -> OnNetwork {
    OnNetwork {
        network: "user".to_owned(),
        id: String::new(),
        slot: 0,
        interface: "eth0".to_owned(),
        mac: passt::MAC,
        addresses: passt.interface("eth0").addresses,
        gateways: passt.gateways(),
        names: Vec::new(),
        published: passt.published.clone(),
    }
}

fn told(port: &Port) -> OnNetwork {
    let interface = port.interface("", 0);
    OnNetwork {
        network: port.network.name.clone(),
        id: port.network.id.clone(),
        slot: port.slot,
        interface: format!("eth{}", port.slot),
        mac: port.lease.mac,
        addresses: interface.addresses,
        gateways: port.network.gateways().collect(),
        names: port.lease.names.clone(),
        published: port.lease.published.clone(),
    }
}

/// The network of a name; the one that is always there is made where it is not yet.
pub fn find(store: &NetworkStore, name: &str) -> Result<Network, AttachError> {
    match name {
        definition::DEFAULT => Ok(store.default_network(host_subnets)?),
        name => Ok(store.get(name)?),
    }
}

/// What is asked for and could not be had is refused, rather than passed over.
fn refuse_what_means_nothing(options: &NetworkOptions) -> Result<(), AttachError> {
    if matches!(options.mode, NetworkMode::Networks(_)) {
        return Ok(());
    }
    if options.egress != Egress::default() && options.mode != NetworkMode::None {
        return Err(AttachError::NoMeaning { option: "--egress" });
    }
    if !options.publish.is_empty() && options.mode != NetworkMode::User {
        return Err(AttachError::NoMeaning { option: "--publish" });
    }
    Ok(())
}
