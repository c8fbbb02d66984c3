//! The network of a sandbox: the interfaces of a namespace of the host, plugged into the guest's slots
//! and set up in the namespace of its pod.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ampoule_protocol::message::{NetworkNamespace, Request};
use oci_spec::runtime::Spec;

use super::error::{ShimError, file, host};
use super::keeper::Keeper;
use super::spec;
use crate::agent::{Client, EXCHANGE_TIME};
use crate::network::{self, Interface, Joined};
use crate::sandbox::SandboxError;

/// How long a killed monitor may take to be gone from its taps.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// None until the namespace is known.
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
        spec::network(spec).map(|path| Self::at(&path)).transpose()
    }

    fn at(path: &Path) -> Result<Self, ShimError> {
        let namespace = File::open(path).map_err(file("open the network namespace", path))?;
        let (joined, interfaces) = network::join(namespace.as_fd())?;
        Ok(Self { joined, interfaces })
    }
}

impl Network {
    /// Plugs in what was found; where no namespace was named it is that of the monitor, which callers
    /// find by its pid, and fill later.
    pub fn start(
        found: Option<Found>,
        monitor: u32,
        keeper: &Keeper,
        vsock: &Path,
    ) -> Result<Self, ShimError> {
        let found = match found {
            Some(found) => found,
            None => Found::at(&own_namespace(monitor))?,
        };
        tell_left_out(&found.joined);
        plug(found.interfaces, keeper, vsock)?;
        Ok(Self { joined: Mutex::new(Some(found.joined)) })
    }

    /// Plugs in what has come since.
    pub fn rescan(&self, keeper: &Keeper, vsock: &Path) -> Result<(), ShimError> {
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(joined) = joined.as_mut() else { return Ok(()) };
        let interfaces = joined.rescan()?;
        tell_left_out(joined);
        plug(interfaces, keeper, vsock)
    }

    /// Gives the interfaces back.
    pub fn leave(&self) -> Result<(), ShimError> {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(joined.map_or(Ok(()), Joined::leave)?)
    }
}

/// Where a process's network namespace is found.
fn own_namespace(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

fn tell_left_out(joined: &Joined) {
    for reason in joined.left_out() {
        log::warn!("{reason}");
    }
}

fn plug(interfaces: Vec<Interface>, keeper: &Keeper, vsock: &Path) -> Result<(), ShimError> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let slots: Vec<(u8, OwnedFd)> = interfaces
        .iter()
        .map(|interface| Ok((interface.guest.slot, interface.tap.try_clone()?.into())))
        .collect::<Result<_, std::io::Error>>()
        .map_err(host("copy a descriptor"))?;
    let plugged = keeper.with(move |machine| {
        slots.iter().try_for_each(|(slot, tap)| machine.guest.plug_net(*slot, tap.as_fd(), None))
    });
    let gone = || ShimError::WrongState("the sandbox has ended".into());
    plugged.ok_or_else(gone)??;
    let interfaces = interfaces.into_iter().map(|interface| interface.guest).collect();
    let mut agent = Client::open(vsock, EXCHANGE_TIME)?;
    let request = Request::Network { namespace: NetworkNamespace::Pod, interfaces };
    Ok(agent.call(&request).map_err(SandboxError::from)?)
}

/// Undoes what a shim that was killed has left in the namespace that a `config.json` names. One that is
/// no longer there has taken everything with it.
pub fn clear(spec: &Spec) -> Result<(), ShimError> {
    let Some(path) = spec::network(spec) else { return Ok(()) };
    match File::open(&path) {
        Ok(namespace) => Ok(network::clear(namespace.as_fd(), PATIENCE)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file("open the network namespace", &path)(error)),
    }
}
