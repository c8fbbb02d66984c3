//! What a balloon counts.

use serde::Serialize;

use crate::vmm::devices::virtio::counter::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct BalloonMetrics {
    /// bytes that the driver put into the balloon
    pub inflated_bytes: Counter,
    /// bytes that it took out again
    pub deflated_bytes: Counter,
    /// bytes that it reported as free
    pub reported_bytes: Counter,
    /// bytes that were given back to the host; pages that the guest had not touched, or that were
    /// given back before, count too
    pub released_bytes: Counter,
    /// requests that a correct driver would not have sent
    pub refused: Counter,
    /// requests that the host failed
    pub host_errors: Counter,
    /// chains that are no request at all
    pub malformed: Counter,
    /// times the driver broke a ring, which stops the device until it is reset
    pub stopped: Counter,
}
