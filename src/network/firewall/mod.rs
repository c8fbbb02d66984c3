//! What passes between containers, the host and everybody else: two tables of the kernel's packet filter,
//! both called `ampoule`. Nothing of anybody else's is touched.
//!
//! * [`rules`]: what is asked for
//! * [`layout`]: what there is once; sets, and chains that look into them
//! * [`network`], [`port`]: elements of those sets
//! * [`words`]: what rules are made of
//!
//! No list of what was added is kept beside the kernel's own: what is removed is looked up there.

mod error;
mod layout;
mod network;
#[cfg(test)]
mod packet_tests;
mod port;
mod rules;
#[cfg(test)]
mod tests;
mod words;

pub use error::FirewallError;
pub use rules::{NetworkRules, NoProtocol, PortRules, Protocol, Published};

use super::nft::{Batch, Element, Socket, Table};
use layout::{BRIDGE, BRIDGES, INET, MARK, TAPS};

/// How often is tried again what somebody else has changed meanwhile.
const TRIES: usize = 8;

/// The packet filter of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
}

impl Firewall {
    /// Opens that of the caller's network namespace.
    pub fn open() -> Result<Self, FirewallError> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Makes the tables with all that is not of one network where they are missing. Others may do so at
    /// the same time.
    pub fn ensure(&mut self) -> Result<(), FirewallError> {
        if self.socket.has_chain(BRIDGE, MARK)? && self.socket.has_chain(INET, MARK)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        layout::ensure(&mut batch);
        Ok(self.socket.commit(&batch)?)
    }

    /// Adds a network, or makes one that is there what it is to be.
    pub fn add_network(&mut self, network: &NetworkRules) -> Result<(), FirewallError> {
        check_name(&network.bridge)?;
        self.until_unchanged(|this| {
            let there = this.network_elements()?;
            let mut batch = Batch::default();
            network::add(&mut batch, network, &there);
            Ok(batch)
        })
    }

    /// Removes a network that has no ports any more. One that is not there is no failure.
    pub fn remove_network(&mut self, bridge: &str) -> Result<(), FirewallError> {
        check_name(bridge)?;
        let removed = self.until_unchanged(|this| {
            let there = this.network_elements()?;
            let mut batch = Batch::default();
            network::remove(&mut batch, bridge, &there);
            Ok(batch)
        });
        match removed {
            Err(FirewallError::Kernel(error)) if refused_with(&error, libc::EBUSY).is_some() => {
                Err(FirewallError::InUse(bridge.to_owned()))
            }
            removed => removed,
        }
    }

    /// Adds a container's port, with what is published of it. One of the same name that is there, such as
    /// a killed keeper's, is replaced.
    pub fn add_port(&mut self, port: &PortRules) -> Result<(), FirewallError> {
        check_port(port)?;
        let mut replaced = false;
        loop {
            let mut batch = Batch::default();
            let added = port::add(&mut batch, port);
            let Err(error) = self.socket.commit(&batch) else { return Ok(()) };
            let Some((index, code)) = error.refusal() else { return Err(error.into()) };
            if code == libc::ENOENT && index == added.network {
                let bridge = port.bridge.clone();
                return Err(FirewallError::NoNetwork { bridge, source: error });
            }
            if code != libc::EEXIST || replaced {
                return Err(error.into());
            }
            // The last published port that begins there or before, where one does.
            let mut published = added.published.into_iter().rev();
            if let Some((_, published, set, key)) = published.find(|(first, ..)| *first <= index) {
                let elements = self.socket.elements(INET, set)?;
                let holder = elements.into_iter().find(|element| element.key == key);
                let holder = holder.and_then(|element| element.comment);
                if holder.as_ref() != Some(&port.tap) {
                    return Err(FirewallError::Taken {
                        port: published.host_port,
                        protocol: published.protocol,
                        holder,
                    });
                }
            }
            self.remove_port(&port.tap)?;
            replaced = true;
        }
    }

    /// Removes a port with what is published of it. One that is not there is no failure.
    pub fn remove_port(&mut self, tap: &str) -> Result<(), FirewallError> {
        check_name(tap)?;
        self.until_unchanged(|this| {
            let mut there = Vec::new();
            for (table, set) in port::SETS {
                there.push((table, set, this.socket.elements(table, set)?));
            }
            let mut batch = Batch::default();
            port::remove(&mut batch, tap, &there);
            Ok(batch)
        })
    }

    /// Taps that there are rules for.
    pub fn ports(&mut self) -> Result<Vec<String>, FirewallError> {
        self.names(BRIDGE, TAPS)
    }

    /// Bridges that there are rules for.
    pub fn networks(&mut self) -> Result<Vec<String>, FirewallError> {
        self.names(INET, BRIDGES)
    }

    fn names(&mut self, table: Table, set: &str) -> Result<Vec<String>, FirewallError> {
        let elements = self.socket.elements(table, set)?;
        let mut names: Vec<_> =
            elements.iter().map(|element| super::nft::attributes::text(&element.key)).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn network_elements(&mut self) -> Result<Vec<(&'static str, Vec<Element>)>, FirewallError> {
        let mut there = Vec::new();
        for set in network::SETS {
            there.push((set, self.socket.elements(INET, set)?));
        }
        Ok(there)
    }

    /// Does what follows from what there is; again, where somebody else has done it first.
    fn until_unchanged(
        &mut self,
        plan: impl Fn(&mut Self) -> Result<Batch, FirewallError>,
    ) -> Result<(), FirewallError> {
        let mut tries = 1;
        loop {
            let batch = plan(self)?;
            match self.socket.commit(&batch) {
                Err(error) if tries < TRIES && refused_with(&error, libc::ENOENT).is_some() => {
                    tries += 1;
                }
                done => return Ok(done?),
            }
        }
    }
}

/// Which message the kernel refused with this code.
fn refused_with(error: &super::nft::NftError, code: i32) -> Option<usize> {
    error.refusal().filter(|(_, refused)| *refused == code).map(|(index, _)| index)
}

/// Names are parts of chains' names, which nft(8) reads as words.
fn check_name(name: &str) -> Result<(), FirewallError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.bytes().all(is_word) {
        return Err(FirewallError::Name(name.chars().take(32).collect()));
    }
    Ok(())
}

fn check_port(port: &PortRules) -> Result<(), FirewallError> {
    check_name(&port.tap)?;
    check_name(&port.bridge)?;
    for published in &port.published {
        let of_its_family =
            published.host.is_none_or(|host| host.is_ipv4() == published.container.is_ipv4());
        if !of_its_family || !port.addresses.contains(&published.container) {
            return Err(FirewallError::Published(published.container));
        }
    }
    Ok(())
}
