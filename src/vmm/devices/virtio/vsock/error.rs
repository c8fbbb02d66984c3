//! What can go wrong with a vsock device.

use std::io;
use std::path::PathBuf;

use crate::socket_file::SocketFileError;

/// A vsock device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Reserved (virtio 1.2, 5.10.4), or wider than 32 bits.
    #[error("vsock: {0} is no context id for a guest (3 to 4294967294)")]
    Cid(u64),
    /// The sockets of the host's ports have a suffix to this path, and must fit into an address.
    #[error("vsock socket {path}: the path has more than {max} bytes")]
    PathTooLong {
        /// the socket
        path: PathBuf,
        /// the limit
        max: usize,
    },
    /// it cannot be made
    #[error("vsock")]
    File(#[from] SocketFileError),
    /// it cannot be taken over
    #[error("vsock socket {path}: cannot {what}")]
    Socket {
        /// the socket
        path: PathBuf,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// out of descriptors
    #[error("vsock: no {what}")]
    Host {
        /// what could not be made
        what: &'static str,
        /// why
        #[source]
        source: io::Error,
    },
}
