//! The network of a sandbox: the interfaces of a namespace of the host, plugged into the guest's slots
//! and set up in the namespace of its pod.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use ampoule_protocol::message::NetworkNamespace;
use oci_spec::runtime::Spec;

use super::error::{ShimError, file};
use super::keeper::Keeper;
use super::lock;
use crate::network::{self, Interface, Joined};
use crate::oci;

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// None once the interfaces are given back.
    joined: Mutex<Option<Joined>>,
}

/// A network that the sandbox is to have, found while its machine starts.
#[derive(Debug)]
pub struct Found {
    joined: Joined,
    interfaces: Vec<Interface>,
}

impl Found {
    /// What is in the namespace that a `config.json` names; nothing where it names none.
    pub fn named(spec: &Spec) -> Result<Option<Self>, ShimError> {
        let Some(path) = oci::network::named(spec) else { return Ok(None) };
        let (joined, interfaces) = network::join(open(path)?.as_fd())?;
        Ok(Some(Self { joined, interfaces }))
    }
}

impl Network {
    /// Plugs in what was found. Where no namespace was named it is that of the monitor, which is empty
    /// yet: callers find it by the monitor's pid, and fill it later.
    pub fn start(found: Option<Found>, monitor: u32, keeper: &Keeper) -> Result<Self, ShimError> {
        let joined = match found {
            Some(Found { joined, interfaces }) => {
                tell_left_out(&joined);
                plug(interfaces, keeper)?;
                joined
            }
            None => Joined::to(open(Path::new(&format!("/proc/{monitor}/ns/net")))?.as_fd())?,
        };
        Ok(Self { joined: Mutex::new(Some(joined)) })
    }

    /// Plugs in what has come since.
    pub fn rescan(&self, keeper: &Keeper) -> Result<(), ShimError> {
        let mut joined = lock(&self.joined);
        let Some(joined) = joined.as_mut() else { return Ok(()) };
        let interfaces = joined.rescan()?;
        tell_left_out(joined);
        plug(interfaces, keeper)
    }

    /// Gives the interfaces back.
    pub fn leave(&self) -> Result<(), ShimError> {
        let joined = lock(&self.joined).take();
        Ok(joined.map_or(Ok(()), Joined::leave)?)
    }
}

fn open(path: &Path) -> Result<File, ShimError> {
    File::open(path).map_err(file("open the network namespace", path))
}

fn tell_left_out(joined: &Joined) {
    for reason in joined.left_out() {
        log::warn!("{reason}");
    }
}

fn plug(interfaces: Vec<Interface>, keeper: &Keeper) -> Result<(), ShimError> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let given = keeper.with(|machine| machine.give(NetworkNamespace::Pod, interfaces));
    Ok(given.ok_or_else(ShimError::sandbox_ended)??)
}
