//! What can go wrong with a network device.

use std::io;
use std::path::PathBuf;

/// A network device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// not a name for a network interface
    #[error("tap {0:?}: is not an interface name (1 to 15 bytes, no blank, '/', ':' or '%')")]
    Name(String),
    /// the host has no tap interfaces
    #[error("tap {tap}: /dev/net/tun cannot be opened (is the tun module loaded?)")]
    NoTun {
        /// the interface
        tap: String,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// neither there nor to be made
    #[error(
        "tap {tap}: there is no such interface, and making one is not permitted \
         (make it with: ip tuntap add {tap} mode tap)"
    )]
    Missing {
        /// the interface
        tap: String,
    },
    /// it belongs to somebody else
    #[error("tap {tap}: is not permitted to this user")]
    NotPermitted {
        /// the interface
        tap: String,
    },
    /// another process has it open
    #[error("tap {tap}: is in use by another process")]
    Busy {
        /// the interface
        tap: String,
    },
    /// an interface of that name is something else
    #[error("tap {tap}: is not a tap interface")]
    NotATap {
        /// the interface
        tap: String,
    },
    /// anything else that the kernel says
    #[error("tap {tap}: {what} failed")]
    Setup {
        /// the interface
        tap: String,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// nobody listens there, or it is no socket for streams
    #[error("{}: cannot connect to who takes frames there", path.display())]
    Connect {
        /// the socket
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a group address, or no address at all
    #[error("{0} is not the hardware address of one interface")]
    Mac(String),
    /// no random bytes for a hardware address
    #[error("no random hardware address")]
    Random(#[source] getrandom::Error),
    /// the host is out of descriptors
    #[error("no descriptor for a network device")]
    Descriptor(#[source] io::Error),
}
