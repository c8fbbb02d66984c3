//! Why a network cannot be joined.

use std::io;

use super::plan::PlanError;
use crate::vmm::devices::virtio::net::NetError;

/// Why a network cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// the namespace is the caller's, or the machine's
    #[error("it is the host's own network namespace, which a guest is not joined to")]
    Hosts,
    /// it is something else
    #[error("it is no network namespace")]
    Other,
    /// the namespace cannot be worked in
    #[error("cannot {what} the network namespace")]
    Namespace {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
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
    /// what is there cannot be had in a guest
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// the interface was joined to another guest, which is there still
    #[error("interface {0} is another sandbox's already")]
    Taken(String),
    /// somebody else works on what comes in
    #[error(
        "interface {0} has a queueing discipline for what comes in, which the guest's would replace"
    )]
    Ingress(String),
    /// the tap
    #[error(transparent)]
    Tap(NetError),
}

impl NetworkError {
    /// A failed operation on a namespace.
    pub(super) fn namespace<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Namespace { what, source: source.into() }
    }

    /// A refused request.
    pub(super) fn kernel(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        Self::Kernel { what: what.into(), source: refusal(error) }
    }
}

/// What the kernel said.
pub(super) fn refusal(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        error => io::Error::other(error.to_string()),
    }
}
