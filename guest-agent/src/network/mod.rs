//! Network interfaces: devices of the machine, moved to the namespace of a pod or a container and set
//! up there as the host says. In the agent's own namespace they have the names that Linux gave them,
//! `eth0` for the first, are down, and nobody uses them.

mod netlink;
mod prepared;

use std::fs::File;
use std::os::fd::AsFd;

use ampoule_protocol::message::{INIT, Interface, NetworkNamespace};
use ampoule_protocol::network::{MAX_INTERFACES, MAX_NAME};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::error::{Doing, Error, Result};
use crate::{Agent, pod, thread};
use netlink::Netlink;
pub use prepared::Prepared;

/// What Linux takes for a packet's length on a virtio device.
const MTUS: std::ops::RangeInclusive<u32> = 68..=65535;

/// Sets interfaces up, all or none.
pub fn add(agent: &Agent, namespace: &NetworkNamespace, interfaces: &[Interface]) -> Result<()> {
    check(interfaces)?;
    // Looked up and moved from here, the agent's own namespace.
    let outside = open_netlink()?;
    let prepared = match namespace {
        NetworkNamespace::Pod => false,
        NetworkNamespace::Container(name) => agent.prepared.is_new_in(name),
    };
    if !prepared && interfaces.iter().any(|interface| interface.slot == prepared::SLOT) {
        agent.prepared.let_go()?;
    }
    let find = |interface: &Interface| {
        // It may be there already.
        if prepared && interface.is_first() { Ok(None) } else { device(interface.slot).map(Some) }
    };
    let devices = interfaces.iter().map(find).collect::<Result<Vec<Option<u32>>>>()?;
    within(agent, namespace, &mut || {
        let inside = Inside::open()?;
        for (interface, device) in interfaces.iter().zip(&devices) {
            let added = match device {
                Some(device) => inside
                    .take(&outside, *device, interface.slot, &interface.name)
                    .and_then(|()| inside.set(interface)),
                None => inside.set(interface).and_then(|()| prepared::wake()),
            };
            if added.is_err() {
                // The first failure is the one to tell.
                let done = interfaces.iter().take_while(|other| other.slot != interface.slot);
                done.chain([interface]).for_each(|each| {
                    let _ = inside.give_back(each.slot, &each.name);
                });
                return added;
            }
        }
        Ok(())
    })
}

/// Takes an interface back.
pub fn remove(agent: &Agent, namespace: &NetworkNamespace, slot: u8, name: &str) -> Result<()> {
    within(agent, namespace, &mut || Inside::open()?.give_back(slot, name))
}

fn check(interfaces: &[Interface]) -> Result<()> {
    let invalid = |what: String| Err(Error::Invalid(what));
    if interfaces.len() > MAX_INTERFACES {
        return invalid(format!("{} interfaces, of {MAX_INTERFACES}", interfaces.len()));
    }
    for (n, interface) in interfaces.iter().enumerate() {
        let Interface { slot, name, mtu, .. } = interface;
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
        let valid = (1..=MAX_NAME).contains(&name.len())
            && !matches!(name.as_str(), "." | ".." | "lo" | "all" | "default")
            && name.chars().all(fits);
        if !valid {
            return invalid(format!("{name:?} is no name of an interface"));
        }
        if interfaces.iter().take(n).any(|other| other.slot == *slot || other.name == *name) {
            return invalid(format!("interface {name:?} or its slot {slot} is named twice"));
        }
        if let Some(mtu) = mtu.filter(|mtu| !MTUS.contains(mtu)) {
            return invalid(format!("interface {name:?}: an MTU of {mtu}"));
        }
    }
    Ok(())
}

/// The index of a device that is in nobody's namespace.
fn device(slot: u8) -> Result<u32> {
    if_nametoindex(own_name(slot).as_str())
        .map_err(|_| Error::NotFound { what: "free network device", name: own_name(slot) })
}

/// What Linux calls the device in the agent's own namespace.
fn own_name(slot: u8) -> String {
    format!("eth{slot}")
}

fn open_netlink() -> Result<Netlink> {
    Netlink::open().doing(|| "open a netlink socket")
}

/// Does something on a thread that is in the namespace, and ends.
fn within(
    agent: &Agent,
    namespace: &NetworkNamespace,
    work: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<()> {
    let kind = CloneFlags::CLONE_NEWNET;
    let of_pod;
    let of_container;
    let namespace = match namespace {
        NetworkNamespace::Pod => {
            of_pod = pod::open("net")?;
            of_pod.as_fd()
        }
        NetworkNamespace::Container(name) => {
            of_container = agent.containers.member(name, kind, INIT)?;
            of_container.pidfd().as_fd()
        }
    };
    thread::run("network", || {
        setns(namespace, kind).doing(|| "join the network namespace")?;
        work()
    })
    .doing(|| "start a thread")?
}

/// The namespace that the calling thread is in.
struct Inside {
    netlink: Netlink,
    namespace: File,
}

impl Inside {
    fn open() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let namespace = File::open(path).doing(|| format!("open {path}"))?;
        Ok(Self { netlink: open_netlink()?, namespace })
    }

    /// Moves a device here.
    fn take(&self, outside: &Netlink, device: u32, slot: u8, name: &str) -> Result<()> {
        if if_nametoindex(name).is_ok() {
            return Err(Error::AlreadyExists { what: "interface", name: name.to_owned() });
        }
        outside
            .move_to(device, self.namespace.as_fd(), name)
            .doing(|| format!("move network device {slot} to {name}"))
    }

    fn bring_up(&self, index: u32, name: &str) -> Result<()> {
        self.netlink.set_up(index, true).doing(|| format!("bring interface {name} up"))
    }

    fn set(&self, interface: &Interface) -> Result<()> {
        let Interface { name, mac, mtu, .. } = interface;
        let index = self.index(name)?;
        let told = |what: String| move || format!("{what} of interface {name}");
        self.netlink
            .change(index, *mac, *mtu)
            .doing(told(format!("set the hardware address {mac:02x?} and the MTU {mtu:?}")))?;
        self.bring_up(index, name)?;
        for address in &interface.addresses {
            self.netlink
                .add_address(index, *address)
                .doing(told(format!("add the address {address}")))?;
        }
        // A gateway has to be reachable when its route is made.
        for direct in [true, false] {
            let routes = interface.routes.iter();
            for route in routes.filter(|route| route.gateway.is_none() == direct) {
                self.netlink
                    .add_route(index, route)
                    .doing(told(format!("add the route to {}", route.destination)))?;
            }
        }
        for neighbour in &interface.neighbours {
            self.netlink
                .add_neighbour(index, neighbour)
                .doing(told(format!("add the neighbour {}", neighbour.address)))?;
        }
        Ok(())
    }

    /// Moves a device to the agent's own namespace.
    fn give_back(&self, slot: u8, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let path = "/proc/self/ns/net";
        let own = File::open(path).doing(|| format!("open {path}"))?;
        let action = || format!("take interface {name} away");
        self.netlink.set_up(index, false).doing(action)?;
        self.netlink.move_to(index, own.as_fd(), &own_name(slot)).doing(action)
    }

    fn index(&self, name: &str) -> Result<u32> {
        if_nametoindex(name)
            .map_err(|_| Error::NotFound { what: "interface", name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interface(slot: u8, name: &str) -> Interface {
        Interface {
            slot,
            name: name.to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
        }
    }

    #[test]
    fn interfaces_have_names_and_devices_of_their_own() {
        assert!(check(&[interface(0, "eth0"), interface(1, "net1")]).is_ok());
        assert!(check(&[interface(0, "eth0"), interface(0, "net1")]).is_err());
        assert!(check(&[interface(0, "eth0"), interface(1, "eth0")]).is_err());
        for name in ["", ".", "..", "lo", "a/b", "a b", "x%d", "ä", &"x".repeat(16)] {
            assert!(check(&[interface(0, name)]).is_err(), "{name:?}");
        }
        assert!(check(&[0, 1, 2, 3, 4].map(|n| interface(n, &format!("e{n}")))).is_err());
        assert!(check(&[Interface { mtu: Some(67), ..interface(0, "e") }]).is_err());
    }

    proptest! {
        #[test]
        fn any_name_is_taken_or_refused(name in ".{0,20}") {
            let taken = check(&[interface(0, &name)]).is_ok();
            prop_assert!(!taken || (name.len() <= MAX_NAME && !name.contains('/')));
        }
    }
}
