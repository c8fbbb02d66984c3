//! The entropy device (virtio 1.2, section 5.4): random bytes of the host's kernel.

mod device;
mod event_handler;
mod metrics;

pub use device::Rng;
pub use metrics::Metrics;
