//! What is plugged into a device of a machine that runs, and taken out of it again.

use std::fs::File;
use std::io;

use super::block::BlockError;
use super::net::{NetError, Wire};
use crate::vmm::rate::RateLimiter;

/// Where something is plugged in: among the devices of its kind, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A disk.
    Disk(usize),
    /// A network interface.
    Net(usize),
}

/// What is plugged in.
#[derive(Debug)]
pub enum Plug {
    /// A disk.
    Disk {
        /// A regular file or a block device.
        file: File,
        /// How long it is, in bytes.
        bytes: u64,
        /// Writes are refused.
        read_only: bool,
        /// Serial number that the guest sees from now on, at most 20 bytes.
        serial: Option<String>,
        /// How much it does in a time.
        rate_limiter: RateLimiter,
    },
    /// A network interface.
    Net {
        /// Where its frames go.
        wire: Wire,
        /// The address that the device has from now on. A driver that is at work has read the old one:
        /// the guest is told by other means.
        mac: Option<[u8; 6]>,
        /// How many frames the guest gets in a time.
        rx_rate_limiter: RateLimiter,
        /// How many it sends in a time.
        tx_rate_limiter: RateLimiter,
    },
}

/// Nothing is plugged in or out.
#[derive(Debug, thiserror::Error)]
pub enum PlugError {
    /// the machine has fewer
    #[error("the machine has no {0:?}")]
    NoPlace(Place),
    /// something is there
    #[error("something is plugged in there already")]
    InUse,
    /// nothing is there
    #[error("nothing is plugged in there")]
    Empty,
    /// a disk in the place of a network interface, …
    #[error("the device is of another kind")]
    OtherDevice,
    /// a disk
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// a network interface
    #[error(transparent)]
    Net(#[from] NetError),
    /// the host's kernel
    #[error("cannot {what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
}
