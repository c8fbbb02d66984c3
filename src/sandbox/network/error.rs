//! Why a container cannot be on the network that it is to be on.

use std::io;
use std::path::PathBuf;

use crate::network::NetworkError;
use crate::network::bridge::BridgeError;
use crate::network::passt::PasstError;
use crate::network::publish::PublishError;

/// Why a container cannot be on the network that it is to be on.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// a network of ampoule's own
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// a published port
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// a namespace of the host's
    #[error("cannot join the network namespace {}", path.display())]
    Namespace {
        /// where it is
        path: PathBuf,
        /// why not
        #[source]
        source: NetworkError,
    },
    /// a namespace that is not there
    #[error("cannot open the network namespace {}", path.display())]
    NoNamespace {
        /// where it was looked for
        path: PathBuf,
        /// why not
        #[source]
        source: io::Error,
    },
    /// passt
    #[error(transparent)]
    Passt(#[from] PasstError),
    /// a user who may not make interfaces
    #[error(
        "a bridge network needs root, which alone makes interfaces and rules of the host: use \
         --network user, --network none, or run ampoule as root"
    )]
    NeedsRoot,
    /// an option that means nothing there
    #[error(
        "{option} needs a network of ampoule's own (--network bridge, or one of `ampoule network create`)"
    )]
    NoMeaning {
        /// the option
        option: &'static str,
    },
    /// more networks than the guest has devices
    #[error("the container would be on {0} networks: a guest has {max} at most", max = ampoule_protocol::network::MAX_INTERFACES)]
    TooMany(usize),
    /// it is there already
    #[error("container {container} is already attached to network {network}")]
    AlreadyOn {
        /// the container
        container: String,
        /// the network
        network: String,
    },
    /// it is not there
    #[error("container {container} is not connected to network {network}")]
    NotOn {
        /// the container
        container: String,
        /// the network
        network: String,
    },
    /// it is on something else
    #[error("container {container} is on network {mode}, beside which there is no other")]
    OtherMode {
        /// the container
        container: String,
        /// docker's word for what it is on
        mode: String,
    },
    /// all devices have an interface
    #[error(
        "the guest has no network device left: stop the container, connect it, and start it again"
    )]
    NoDevice,
    /// a thread
    #[error("cannot start a thread for the container's network")]
    Thread(#[source] io::Error),
}
