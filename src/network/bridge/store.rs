//! Networks on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use nix::net::if_::if_nametoindex;
use serde::de::DeserializeOwned;

use super::definition::{
    DEFAULT, DEFAULT_BRIDGE, Network, Subnet, Wanted, bridge_of, check_name, mac_of,
};
use super::error::{BridgeError, file};
use super::leases::Lease;
use super::pool;

/// Largest file that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// What the host's administrator says of all networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Where subnets come from.
    pub pools: Pools,
    /// Where ampoule has the host forward packets, none pass between interfaces that are no network's.
    pub close_forwarding: bool,
}

/// Where subnets come from that nobody names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// The default network's own.
    pub default: Ipv4Net,
    /// Those of others.
    pub others: Ipv4Net,
    /// Bits of the subnets of others.
    pub prefix: u8,
}

/// All networks of one data folder.
#[derive(Debug, Clone)]
pub struct NetworkStore {
    folder: PathBuf,
    settings: Settings,
}

/// Nobody else changes networks and leases while this is held.
#[derive(Debug)]
pub struct Locked {
    _lock: Flock<File>,
}

impl NetworkStore {
    /// The networks below a data folder.
    pub fn new(data: &Path, settings: Settings) -> Self {
        Self { folder: data.join("networks"), settings }
    }

    /// What holds for all of them.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Waits until nobody else changes anything.
    pub fn lock(&self) -> Result<Locked, BridgeError> {
        let mut folders = fs::DirBuilder::new();
        let made = folders.recursive(true).mode(0o711).create(&self.folder);
        made.map_err(file("create", &self.folder))?;
        let path = self.folder.join("lock");
        let lock = File::create(&path).map_err(file("open", &path))?;
        let locked = Flock::lock(lock, FlockArg::LockExclusive);
        let _lock = locked.map_err(|(_, errno)| file("lock", &path)(errno.into()))?;
        Ok(Locked { _lock })
    }

    /// The network of a name, an id or an id's unambiguous beginning.
    pub fn get(&self, wanted: &str) -> Result<Network, BridgeError> {
        match self.named(wanted) {
            Err(BridgeError::NotFound(_) | BridgeError::Name(_)) => {}
            found => return found,
        }
        let missing = || BridgeError::NotFound(wanted.to_owned());
        if wanted.len() < 2 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut fit = self.list()?.into_iter().filter(|network| network.id.starts_with(wanted));
        match (fit.next(), fit.next()) {
            (Some(network), None) => Ok(network),
            _ => Err(missing()),
        }
    }

    fn named(&self, name: &str) -> Result<Network, BridgeError> {
        check_name(name).map_err(|_| BridgeError::NotFound(name.to_owned()))?;
        let path = self.definition(name);
        let network: Network =
            read(&path)?.ok_or_else(|| BridgeError::NotFound(name.to_owned()))?;
        match network.invalid(name) {
            Some(what) => Err(BridgeError::Contents { path, what }),
            None => Ok(network),
        }
    }

    /// All networks, by name. Files that are none are passed over.
    pub fn list(&self) -> Result<Vec<Network>, BridgeError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("read", &self.folder))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned));
        let mut all: Vec<Network> = names.filter_map(|name| self.named(&name).ok()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Makes a network. `host` has the subnets that lead elsewhere already.
    pub fn create(
        &self,
        name: &str,
        wanted: Wanted,
        host: &[IpNet],
    ) -> Result<Network, BridgeError> {
        check_name(name)?;
        let _locked = self.lock()?;
        if self.definition(name).exists() {
            return Err(BridgeError::Exists(name.to_owned()));
        }
        self.define(name, wanted, host)
    }

    /// The network that containers are on by default, made where it is not there yet.
    pub fn default_network(
        &self,
        host: impl FnOnce() -> Result<Vec<IpNet>, BridgeError>,
    ) -> Result<Network, BridgeError> {
        match self.named(DEFAULT) {
            Err(BridgeError::NotFound(_)) => {}
            found => return found,
        }
        let host = host()?;
        let _locked = self.lock()?;
        match self.named(DEFAULT) {
            Err(BridgeError::NotFound(_)) => self.define(DEFAULT, Wanted::default(), &host),
            found => found,
        }
    }

    /// Chooses anew what nobody has chosen of the default network, as somebody else has it. The caller
    /// has the lock.
    pub fn redefine_default(&self, host: &[IpNet]) -> Result<Network, BridgeError> {
        let path = self.definition(DEFAULT);
        fs::remove_file(&path).map_err(file("remove", &path))?;
        self.define(DEFAULT, Wanted::default(), host)
    }

    fn define(&self, name: &str, wanted: Wanted, host: &[IpNet]) -> Result<Network, BridgeError> {
        let others = self.list()?;
        let subnets = self.subnets(name, &wanted, &others, host)?;
        let id = crate::random::id().map_err(BridgeError::Random)?;
        let Wanted { internal, icc, masquerade, mtu, labels, .. } = wanted;
        let (mut bridge, mac) = (bridge_of(&id), mac_of(&id));
        if name == DEFAULT && if_nametoindex(DEFAULT_BRIDGE).is_err() {
            DEFAULT_BRIDGE.clone_into(&mut bridge);
        }
        let created = Timestamp::now();
        let name = name.to_owned();
        let network = Network {
            id,
            name,
            created,
            bridge,
            mac,
            subnets,
            internal,
            icc,
            masquerade,
            mtu,
            labels,
        };
        write(&self.definition(&network.name), &network)?;
        Ok(network)
    }

    fn subnets(
        &self,
        name: &str,
        wanted: &Wanted,
        others: &[Network],
        host: &[IpNet],
    ) -> Result<Vec<Subnet>, BridgeError> {
        let mut subnets = wanted.subnets.clone();
        let has = |subnets: &[IpNet], four: bool| {
            subnets.iter().filter(|subnet| matches!(subnet, IpNet::V4(_)) == four).count()
        };
        if [true, false].iter().any(|four| has(&subnets, *four) > 1) {
            let subnet = subnets.first().copied().unwrap_or_default();
            let reason = "a network has one subnet of each family";
            return Err(BridgeError::Subnet { subnet, reason });
        }
        for wanted in &subnets {
            if let Some((whose, other)) = whose(wanted, others, host) {
                return Err(BridgeError::Overlap { wanted: *wanted, other, whose });
            }
        }
        if has(&subnets, true) == 0 {
            let taken = others.iter().flat_map(|other| other.subnets.iter().map(|s| s.subnet));
            let mut used: Vec<IpNet> = taken.chain(host.iter().copied()).collect();
            let Pools { default, others, prefix } = self.settings.pools;
            if name != DEFAULT {
                // It may not be there yet.
                used.push(IpNet::V4(default));
            }
            let own = (name == DEFAULT)
                .then(|| pool::free_subnet(default, default.prefix_len(), &used))
                .flatten();
            let free = own.or_else(|| pool::free_subnet(others, prefix, &used));
            subnets.insert(0, IpNet::V4(free.ok_or(BridgeError::NoSubnet)?));
        }
        if has(&subnets, false) == 0 && wanted.ipv6 && super::link::has_ipv6() {
            let mut random = [0; 7];
            getrandom::fill(&mut random).map_err(BridgeError::Random)?;
            subnets.push(IpNet::V6(pool::local_subnet(random)));
        }
        subnets.sort_by_key(|subnet| matches!(subnet, IpNet::V6(_)));
        let with = |subnet: &IpNet| {
            let gateway = wanted.gateways.iter().find(|gateway| subnet.contains(*gateway));
            let range = wanted.ranges.iter().find(|range| subnet.contains(*range));
            Subnet::new(*subnet, gateway.copied(), range.copied())
        };
        let made = subnets.iter().map(with).collect::<Result<Vec<_>, _>>()?;
        // What fits no subnet was meant for one.
        let stray = |gateway: &&IpAddr| !made.iter().any(|subnet| subnet.gateway == **gateway);
        if let Some(gateway) = wanted.gateways.iter().find(stray) {
            let (address, network) = (*gateway, name.to_owned());
            let reason = "no subnet of the network has it as its gateway";
            return Err(BridgeError::Address { address, network, reason });
        }
        let stray = |range: &&IpNet| !made.iter().any(|s| s.range == Some(range.trunc()));
        match wanted.ranges.iter().find(stray) {
            Some(range) => {
                Err(BridgeError::Subnet { subnet: *range, reason: "it is no part of a subnet" })
            }
            None => Ok(made),
        }
    }

    /// Forgets a network, of which nobody has a lease. The caller has the lock.
    pub fn forget(&self, network: &Network) -> Result<(), BridgeError> {
        for path in [self.leases_of(network), self.definition(&network.name)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All leases of a network, those of the dead among them. What cannot be read is none: addresses of
    /// those who live are theirs by their bridge.
    pub fn leases(&self, network: &Network) -> Result<Vec<Lease>, BridgeError> {
        match read(&self.leases_of(network)) {
            Err(error @ BridgeError::Damaged { .. }) => {
                log::warn!("{error}");
                Ok(Vec::new())
            }
            leases => Ok(leases?.unwrap_or_default()),
        }
    }

    /// Writes the leases of a network down. The caller has the lock.
    pub fn write_leases(&self, network: &Network, leases: &[Lease]) -> Result<(), BridgeError> {
        write(&self.leases_of(network), &leases)
    }

    /// Gives a container another name, by which others on its networks know it from here on.
    pub fn rename(&self, owner: &str, name: &str) -> Result<(), BridgeError> {
        let is_old = |lease: &Lease| {
            lease.owner == owner && lease.names.first().is_some_and(|old| old != name)
        };
        for network in self.list()? {
            if !self.leases(&network)?.iter().any(is_old) {
                continue;
            }
            let _locked = self.lock()?;
            let mut leases = self.leases(&network)?;
            for lease in leases.iter_mut().filter(|lease| is_old(lease)) {
                // Its own is the first.
                if let Some(old) = lease.names.first_mut() {
                    name.clone_into(old);
                }
            }
            self.write_leases(&network, &leases)?;
        }
        Ok(())
    }

    fn definition(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn leases_of(&self, network: &Network) -> PathBuf {
        self.folder.join(format!("{}.leases", network.name))
    }
}

/// Who has a subnet that overlaps with this one: a network, or something of the host's.
fn whose(wanted: &IpNet, others: &[Network], host: &[IpNet]) -> Option<(String, IpNet)> {
    let of = |network: &Network| {
        let overlaps = |subnet: &&Subnet| pool::overlap(wanted, &subnet.subnet);
        let subnet = network.subnets.iter().find(overlaps)?;
        Some((format!("network {}", network.name), subnet.subnet))
    };
    let of_host = || {
        let subnet = host.iter().find(|subnet| pool::overlap(wanted, subnet))?;
        Some(("the host".to_owned(), *subnet))
    };
    others.iter().find_map(of).or_else(of_host)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, BridgeError> {
    let opened = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(file("open", path))?,
    };
    let mut json = Vec::new();
    opened.take(LIMIT + 1).read_to_end(&mut json).map_err(file("read", path))?;
    if json.len() as u64 > LIMIT {
        return Err(file("read", path)(io::ErrorKind::FileTooLarge.into()));
    }
    let damaged = |source| BridgeError::Damaged { path: path.to_owned(), source };
    serde_json::from_slice(&json).map(Some).map_err(damaged)
}

/// A reader sees the old one or the new one, whole.
fn write<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), BridgeError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let bytes = serde_json::to_vec(value)
        .map_err(|source| BridgeError::Damaged { path: path.to_owned(), source })?;
    let mut fresh = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)
        .map_err(file("create a file in", folder))?;
    fresh.write_all(&bytes).map_err(file("write", path))?;
    fresh.persist(path).map_err(|error| file("write", path)(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, NetworkStore) {
        let data = tempfile::tempdir().unwrap();
        let pools = Pools {
            default: "10.201.0.0/16".parse().unwrap(),
            others: "10.202.0.0/22".parse().unwrap(),
            prefix: 24,
        };
        let store = NetworkStore::new(data.path(), Settings { pools, close_forwarding: true });
        (data, store)
    }

    fn subnet(text: &str) -> Wanted {
        Wanted { subnets: vec![text.parse().unwrap()], ..Wanted::default() }
    }

    #[test]
    fn networks_get_subnets_of_their_own_until_there_are_none() {
        let (_data, store) = store();
        let host = ["10.202.0.0/24".parse().unwrap()];
        let default = store.default_network(|| Ok(host.to_vec())).unwrap();
        assert_eq!(default.subnets[0].subnet.to_string(), "10.201.0.0/16");
        assert_eq!(store.default_network(|| panic!("it is there")).unwrap(), default);
        for n in 1..4 {
            let network = store.create(&format!("n{n}"), Wanted::default(), &host).unwrap();
            assert_eq!(network.subnets[0].subnet.to_string(), format!("10.202.{n}.0/24"));
        }
        assert!(matches!(store.create("n4", Wanted::default(), &host), Err(BridgeError::NoSubnet)));
        assert_eq!(store.list().unwrap().len(), 4);
    }

    #[test]
    fn a_subnet_that_somebody_has_is_refused_by_name() {
        let (_data, store) = store();
        store.create("web", subnet("192.0.2.0/24"), &[]).unwrap();
        let error = store.create("db", subnet("192.0.2.128/25"), &[]).unwrap_err().to_string();
        assert!(error.contains("192.0.2.0/24") && error.contains("web"), "{error}");
        let host = ["198.51.100.0/24".parse().unwrap()];
        let error = store.create("db", subnet("198.51.0.0/16"), &host).unwrap_err().to_string();
        assert!(error.contains("the host"), "{error}");
        assert!(matches!(store.create("web", Wanted::default(), &[]), Err(BridgeError::Exists(_))));
        let stray = Wanted { gateways: vec!["10.1.1.1".parse().unwrap()], ..subnet("10.2.0.0/24") };
        assert!(store.create("db", stray, &[]).is_err());
    }

    #[test]
    fn networks_are_found_and_forgotten() {
        let (_data, store) = store();
        let network = store.create("web", Wanted::default(), &[]).unwrap();
        assert_eq!(store.get("web").unwrap(), network);
        assert_eq!(store.get(&network.id[..6]).unwrap(), network);
        for missing in ["", "nothing", "../web", &network.id[..1]] {
            assert!(matches!(store.get(missing), Err(BridgeError::NotFound(_))), "{missing}");
        }
        store.forget(&network).unwrap();
        assert!(store.get("web").is_err());
    }

    #[test]
    fn a_container_has_its_new_name_on_all_of_its_networks() {
        let (_data, store) = store();
        let lease = |owner: &str, names: &[&str]| Lease {
            owner: owner.into(),
            tap: "t".into(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: Vec::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            dns: Vec::new(),
            egress: crate::network::egress::Egress::default(),
            published: Vec::new(),
        };
        let networks =
            ["a", "b", "c"].map(|name| store.create(name, Wanted::default(), &[]).unwrap());
        for network in &networks[..2] {
            let leases = [lease("1", &["web", "111", "www"]), lease("2", &["db", "222", "web"])];
            store.write_leases(network, &leases).unwrap();
        }
        store.rename("1", "shop").unwrap();
        for network in &networks[..2] {
            let leases = store.leases(network).unwrap();
            assert_eq!(leases[0].names, ["shop", "111", "www"]);
            assert_eq!(leases[1].names, ["db", "222", "web"]);
        }
        assert_eq!(store.leases(&networks[2]).unwrap(), []);
    }

    #[test]
    fn what_was_spoiled_is_told() {
        let (data, store) = store();
        let network = store.create("web", Wanted::default(), &[]).unwrap();
        let path = data.path().join("networks/web.json");
        let spoil = |change: fn(&mut Network)| {
            let mut network = network.clone();
            change(&mut network);
            write(&path, &network).unwrap();
            store.get("web")
        };
        assert!(matches!(
            spoil(|n| n.bridge = "eth0".into()),
            Err(BridgeError::Contents { what: "bridge", .. })
        ));
        assert!(spoil(|n| n.mtu = 0).is_err());
        assert!(spoil(|n| n.id = "x".into()).is_err());
        assert!(spoil(|n| n.subnets[0].gateway = "1.1.1.1".parse().unwrap()).is_err());
        fs::write(&path, "{").unwrap();
        assert!(matches!(store.get("web"), Err(BridgeError::Damaged { .. })));
    }
}
