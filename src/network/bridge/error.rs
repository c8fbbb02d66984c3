//! Why a network of ampoule's own cannot be had.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::network::error::refusal;
use crate::network::firewall::FirewallError;
use crate::network::publish::PublishError;
use crate::vmm::devices::virtio::net::NetError;

/// Why a network of ampoule's own cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// a name that cannot be one
    #[error(
        "{0:?} is not a valid network name: 1 to 64 of [a-zA-Z0-9_.-], the first of [a-zA-Z0-9]"
    )]
    Name(String),
    /// a name that means something else
    #[error("network name {0} has a meaning of its own")]
    Reserved(String),
    /// there is none of that name
    #[error("network {0} not found (ampoule network ls tells which there are)")]
    NotFound(String),
    /// there is one of that name
    #[error("network with name {0} already exists")]
    Exists(String),
    /// a container is on it
    #[error("network {name} has active endpoints: {}", users.join(", "))]
    InUse {
        /// the network
        name: String,
        /// ids of the containers
        users: Vec<String>,
    },
    /// the network that is always there
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// another network has these addresses
    #[error("invalid pool request: subnet {wanted} overlaps with {other} of {whose}")]
    Overlap {
        /// what was asked for
        wanted: IpNet,
        /// what is there
        other: IpNet,
        /// a network's name, or the host
        whose: String,
    },
    /// no subnet is left
    #[error(
        "all predefined address pools have been fully subnetted: name a subnet (--subnet), or remove \
         networks that nobody needs (ampoule network prune)"
    )]
    NoSubnet,
    /// a subnet that makes no sense
    #[error("subnet {subnet}: {reason}")]
    Subnet {
        /// the subnet
        subnet: IpNet,
        /// what is wrong with it
        reason: &'static str,
    },
    /// an address that is nobody's to have
    #[error("address {address} cannot be had on network {network}: {reason}")]
    Address {
        /// the address
        address: IpAddr,
        /// the network
        network: String,
        /// why not
        reason: &'static str,
    },
    /// all are taken
    #[error("no available addresses on network {0}: all of its subnet are taken")]
    Exhausted(String),
    /// another container has it
    #[error("Address already in use: {address} of network {network} is another container's")]
    Taken {
        /// the address
        address: IpAddr,
        /// the network
        network: String,
    },
    /// an interface of that name is there, and is something else
    #[error(
        "interface {0} is there already, and is not this network's bridge: remove or rename it"
    )]
    Foreign(String),
    /// a file could not be worked with
    #[error("cannot {what} {}", path.display())]
    File {
        /// what was attempted
        what: &'static str,
        /// on what
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// what is written down makes no sense
    #[error("the network's file {} is damaged: remove it, and make the network anew", path.display())]
    Damaged {
        /// the file
        path: PathBuf,
        /// what is wrong with it
        #[source]
        source: serde_json::Error,
    },
    /// what is written down names what no network has
    #[error("the network's file {} is damaged: its {what} is not valid", path.display())]
    Contents {
        /// the file
        path: PathBuf,
        /// which field
        what: &'static str,
    },
    /// the kernel refused a request
    #[error("cannot {what}")]
    Kernel {
        /// what was attempted, on what
        what: String,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// the tap
    #[error(transparent)]
    Tap(#[from] NetError),
    /// the rules
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// a published port
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// the kernel gave no random bytes
    #[error("cannot get random bytes")]
    Random(#[source] getrandom::Error),
}

pub(super) fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> BridgeError {
    move |source| BridgeError::File { what, path: path.to_owned(), source }
}

/// A refused request.
pub(super) fn kernel(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> BridgeError {
    let what = what.into();
    move |error| BridgeError::Kernel { what, source: refusal(&error) }
}

/// A failed operation of the host's kernel.
pub(super) fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> BridgeError {
    let what = what.into();
    move |source| BridgeError::Kernel { what, source: source.into() }
}
