//! What the entropy device counts.

use std::sync::atomic::AtomicU64;

use serde::Serialize;

/// Counters since the machine was made.
#[derive(Debug, Default, Serialize)]
pub struct Metrics {
    /// Bytes given to the guest.
    pub bytes: AtomicU64,
    /// Requests answered.
    pub requests: AtomicU64,
    /// Requests that were no requests for random bytes: a buffer that is not writable or not in
    /// guest memory. They are answered with 0 bytes.
    pub malformed: AtomicU64,
    /// Rings that could not be worked on, which stopped the device.
    pub broken_rings: AtomicU64,
    /// Requests that the host had no bytes for.
    pub host_failures: AtomicU64,
}
