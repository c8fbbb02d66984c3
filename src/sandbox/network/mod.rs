//! The network of a container.
//!
//! * [`options`]: what a user asks for
//! * [`attach`]: its places at networks, from the start to the end
//! * [`change`]: one more, or one less, while it runs
//! * [`files`]: what tells the container of it
//! * [`names`]: what others call it

mod attach;
mod change;
mod error;
mod files;
mod names;
mod options;

use std::net::IpAddr;

use ampoule_protocol::message::Cidr;
use serde::{Deserialize, Serialize};

pub use attach::{Attached, FILES, Who, find, own_namespace, store};
pub use change::{connect, disconnect, rename};
pub use error::AttachError;
pub use options::{Attachment, Host, NetworkMode, NetworkOptions};

use super::places::Places;
use crate::network::bridge::port;
use crate::network::firewall::Published;
use crate::network::passt;
use crate::report::chain;

/// A network that a container is on, as other commands tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnNetwork {
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub id: String,
    /// Which of the guest's devices it is.
    pub slot: u8,
    /// What the guest calls it.
    pub interface: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Addresses, with how much of them is the network's.
    pub addresses: Vec<Cidr>,
    /// The host's own addresses on it.
    pub gateways: Vec<IpAddr>,
    /// Names that others know the container by.
    pub names: Vec<String>,
    /// Ports of the host that lead here.
    pub published: Vec<Published>,
}

/// The network of a container of a user without root who names none: that of passt, where it is installed.
pub fn default_without_root() -> NetworkMode {
    match passt::find() {
        Some(_) => NetworkMode::User,
        None => NetworkMode::None,
    }
}

/// Clears away what killed keepers have left of networks. That it could not be is theirs to tell who left it.
pub fn sweep(places: &Places) {
    let swept = store(places).map(|store| port::sweep(&store));
    if let Ok(Err(error)) = swept {
        log::debug!("{}", chain(&error));
    }
}
