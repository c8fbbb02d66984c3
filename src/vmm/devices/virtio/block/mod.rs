//! Block device (virtio 1.2, 5.2): a file or a block device of the host as the guest's disk.
//!
//! Requests are carried out one after the other, by blocking calls, on the device thread: the page
//! cache answers most of them. A whole queue is worked off per notification and ends in at most one
//! interrupt.
//!
//! Writes go to the host's page cache and are made durable by the driver's flushes; a driver that
//! does not negotiate flushes gets every write durable before its completion (5.2.6.2).

mod device;
mod disk;
mod error;
mod event_handler;
mod metrics;
mod request;
#[cfg(test)]
mod tests;

pub use device::Block;
pub use disk::{open, sectors_of};
pub use error::BlockError;
pub use metrics::BlockMetrics;
