//! What passes between containers, the host and everybody else: two tables of the kernel's packet filter,
//! both called `ampoule`. Nothing of anybody else's is touched.
//!
//! * [`rules`]: what is asked for
//! * [`layout`]: what there is once; sets, and chains that look into them
//! * [`network`], [`port`]: elements of those sets
//! * [`words`]: what rules are made of
//!
//! No list of what was added is kept beside the kernel's own: what a network is changed by is looked up there,
//! and what a port has follows from its rules, which whoever removes it knows.

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
pub use rules::{Families, NetworkRules, NoProtocol, PortRules, Protocol, Published};

use super::nft::{Batch, Element, Socket, Table};
use layout::{BRIDGE, BRIDGES, INET, MARK, TAPS};

/// Name of both tables.
pub const TABLES: &str = BRIDGE.name;

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

    /// Makes what is missing of a network with these ports, and of what all networks have in common, be it that
    /// somebody has removed parts of it: whether anything was. What is there counts as whole.
    pub fn put_back(
        &mut self,
        network: &NetworkRules,
        ports: &[&PortRules],
    ) -> Result<bool, FirewallError> {
        self.ensure()?;
        let mut missing = !self.has_network(&network.bridge)?;
        if missing {
            self.add_network(network)?;
        }
        for port in ports {
            if !self.has_port(&port.tap)? {
                self.add_port(port)?;
                missing = true;
            }
        }
        Ok(missing)
    }

    /// Drops what is forwarded of these families between interfaces that are no network's, and of no others.
    pub fn close_others(&mut self, families: Families) -> Result<(), FirewallError> {
        let mut batch = Batch::default();
        batch.flush_chain(INET, layout::OTHERS);
        for (closed, six) in [(families.four, false), (families.six, true)] {
            if closed {
                let rule = words::rule([words::is_ip(six), words::drop()]);
                batch.add_rule(INET, layout::OTHERS, &rule);
            }
        }
        Ok(self.socket.commit(&batch)?)
    }

    fn has_network(&mut self, bridge: &str) -> Result<bool, FirewallError> {
        let (element, chain) = (Element::new(words::name(bridge)), network::chain(bridge));
        Ok(self.socket.element(INET, BRIDGES, &element)?.is_some()
            && self.socket.has_chain(INET, &chain)?
            && self.socket.has_chain(BRIDGE, &chain)?)
    }

    fn has_port(&mut self, tap: &str) -> Result<bool, FirewallError> {
        let element = Element::new(words::name(tap));
        Ok(self.socket.element(INET, TAPS, &element)?.is_some()
            && self.socket.element(BRIDGE, TAPS, &element)?.is_some())
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
            let (first, own) = port::add(&mut batch, port);
            let Err(error) = self.socket.commit(&batch) else { return Ok(()) };
            let Some((index, code)) = error.refusal() else { return Err(error.into()) };
            let refused = index.checked_sub(first).and_then(|index| own.get(index));
            if code == libc::ENOENT && refused.is_some_and(|own| own.set == layout::FORWARDS) {
                let bridge = port.bridge.clone();
                return Err(FirewallError::NoNetwork { bridge, source: error });
            }
            if code != libc::EEXIST || replaced {
                return Err(error.into());
            }
            if let Some((own, published)) = refused.and_then(|own| Some((own, own.published?))) {
                let there = self.socket.element(own.table, own.set, &own.element)?;
                let holder = there.and_then(|element| element.comment);
                if holder.as_ref() != Some(&port.tap) {
                    return Err(FirewallError::Taken {
                        port: published.host_port,
                        protocol: published.protocol,
                        holder,
                    });
                }
            }
            self.clear_port(&port.tap)?;
            replaced = true;
        }
    }

    /// Removes a port that was added by these rules. What is not there any more, or is another's by now, is
    /// no failure.
    pub fn remove_port(&mut self, port: &PortRules) -> Result<(), FirewallError> {
        check_port(port)?;
        let mut removals = port::removals(port, |own| {
            let there = self.socket.element(own.table, own.set, &own.element)?;
            Ok::<_, FirewallError>(there.is_some_and(|there| there.comment == own.element.comment))
        })?;
        let mut tries = 1;
        loop {
            let mut batch = Batch::default();
            port::remove(&mut batch, &removals);
            // All that is missing is told at once.
            let refusals = self.socket.attempt(&batch)?;
            let Some(first) = refusals.first() else { return Ok(()) };
            let other = refusals.iter().find(|refusal| refusal.code != libc::ENOENT);
            if other.is_some() || tries == TRIES {
                return Err(batch.refused(*other.unwrap_or(first)).into());
            }
            tries += 1;
            let missing = |index: usize| refusals.iter().any(|refusal| refusal.index == index);
            let mut index = 0..;
            removals.retain(|_| index.next().is_some_and(|index| !missing(index)));
        }
    }

    /// Removes whatever there is of a port, by looking through all that there is of all.
    fn clear_port(&mut self, tap: &str) -> Result<(), FirewallError> {
        self.until_unchanged(|this| {
            let mut there = Vec::new();
            for (table, set) in port::SETS {
                there.push((table, set, this.socket.elements(table, set)?));
            }
            let mut batch = Batch::default();
            port::clear(&mut batch, tap, &there);
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
