//! What a block device counts.

use serde::Serialize;

use crate::vmm::devices::virtio::counter::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct BlockMetrics {
    /// read requests that succeeded
    pub reads: Counter,
    /// bytes that they read
    pub read_bytes: Counter,
    /// write requests that succeeded
    pub writes: Counter,
    /// bytes that they wrote
    pub written_bytes: Counter,
    /// flushes that succeeded
    pub flushes: Counter,
    /// discards that succeeded
    pub discards: Counter,
    /// write-zeroes requests that succeeded
    pub zeroed: Counter,
    /// requests for the serial number
    pub ids: Counter,
    /// times requests had to wait for the rate limit
    pub throttled: Counter,
    /// requests that the device does not offer
    pub unsupported: Counter,
    /// requests that a correct driver would not have sent
    pub refused: Counter,
    /// requests that the host failed
    pub host_errors: Counter,
    /// chains that are no request at all
    pub malformed: Counter,
    /// times the driver broke its ring, which stops the device until it is reset
    pub stopped: Counter,
}
