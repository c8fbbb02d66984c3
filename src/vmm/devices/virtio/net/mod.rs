//! Network device (virtio 1.2, 5.1): a tap interface of the host, or a socket, as the guest's Ethernet card.
//!
//! Frames go between a tap and guest memory in one system call each, with the offload header
//! (5.1.6) that both sides speak in front: checksums and segmentation are left to whoever does them
//! last, the host's kernel or a real card. UDP fragmentation offload is not offered; Linux gave it
//! up in 4.14. For a socket the device does them itself.
//!
//! Taps and sockets are watched edge-triggered: the device remembers that there are frames while the guest
//! has no buffers or the rate limit no tokens, and nothing spins.
//!
//! A machine with several vCPUs has as many pairs of queues, up to [`MAX_PAIRS`]. Pairs and the tap's queues
//! are matched by their numbers, modulo how many there are of either.

mod backend;
mod checksum;
mod control;
mod device;
mod error;
mod event_handler;
mod header;
mod mac;
mod metrics;
mod offload;
mod rx;
mod segment;
#[cfg(test)]
mod tests;
mod tx;

pub use backend::{Wire, open, open_queues};
pub use device::Net;
pub use error::NetError;
pub use metrics::NetMetrics;

/// Most pairs of queues of a device, and queues of a tap.
pub const MAX_PAIRS: u8 = 4;

/// Pairs of queues of a device in a machine with so many vCPUs.
pub fn pairs(vcpus: u8) -> u8 {
    vcpus.clamp(1, MAX_PAIRS)
}
