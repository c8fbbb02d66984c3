//! Network device (virtio 1.2, 5.1): a tap interface of the host as the guest's Ethernet card.
//!
//! Frames go between the tap and guest memory in one system call each, with the offload header
//! (5.1.6) that both sides speak in front: checksums and segmentation are left to whoever does them
//! last, the host's kernel or a real card. UDP fragmentation offload is not offered; Linux gave it
//! up in 4.14.
//!
//! The tap is watched edge-triggered: the device remembers that it has frames while the guest has no
//! buffers, and nothing spins.

mod device;
mod error;
mod event_handler;
mod header;
mod mac;
mod metrics;
mod offload;
mod rx;
mod tap;
#[cfg(test)]
mod tests;
mod tx;

pub use device::Net;
pub use error::NetError;
pub use metrics::NetMetrics;
pub use tap::open;
