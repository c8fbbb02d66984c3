//! Why the firewall is not as it was asked for.

use super::rules::Protocol;
use crate::network::nft::NftError;

/// Why the firewall is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// the kernel refuses something, or cannot be spoken to
    #[error(transparent)]
    Kernel(#[from] NftError),
    /// a name that no interface has, or none that the rules can have
    #[error("{0:?} is no name of an interface of ampoule's")]
    Name(String),
    /// a network that was not added
    #[error("there are no rules of a network with bridge {bridge}")]
    NoNetwork {
        /// its bridge
        bridge: String,
        /// what the kernel said
        #[source]
        source: NftError,
    },
    /// a network that has ports
    #[error("the network with bridge {0} has ports yet")]
    InUse(String),
    /// a published port that leads elsewhere than to its container
    #[error(
        "{0} cannot be published: it is no address of the container, or not of the same family"
    )]
    Published(std::net::IpAddr),
    /// somebody else has a port
    #[error("port {port}/{protocol} of the host is published already{}", by(holder.as_deref()))]
    Taken {
        /// the host's
        port: u16,
        /// of which protocol
        protocol: Protocol,
        /// the tap that has it
        holder: Option<String>,
    },
}

fn by(holder: Option<&str>) -> String {
    holder.map(|tap| format!(", by the container at {tap}")).unwrap_or_default()
}
