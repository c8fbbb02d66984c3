//! What a file system device counts.

use serde::Serialize;

use crate::vmm::devices::virtio::counter::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct FsMetrics {
    /// messages that were answered, with success or an error
    pub requests: Counter,
    /// bytes that the guest read from files
    pub read_bytes: Counter,
    /// bytes that the guest wrote to files
    pub written_bytes: Counter,
    /// operations whose arguments no correct driver would have sent
    pub refused: Counter,
    /// operations refused because the guest makes the host hold too many files
    pub over_budget: Counter,
    /// chains and messages that are no request at all
    pub malformed: Counter,
    /// times the driver broke a ring, which stops the device until it is reset
    pub stopped: Counter,
}
