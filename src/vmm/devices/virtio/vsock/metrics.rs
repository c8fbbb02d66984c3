//! What a vsock device counts.

use serde::Serialize;

use crate::vmm::devices::virtio::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct VsockMetrics {
    /// packets from the guest
    pub packets_from_guest: Counter,
    /// packets to the guest
    pub packets_to_guest: Counter,
    /// payload from the guest in bytes
    pub bytes_from_guest: Counter,
    /// payload to the guest in bytes
    pub bytes_to_guest: Counter,
    /// connections that the guest opened and the host accepted
    pub guest_connects: Counter,
    /// connections that the guest wanted and did not get
    pub guest_connects_refused: Counter,
    /// connections that the host wanted
    pub host_connects: Counter,
    /// clients of the socket that were turned away: no proper handshake, or too many of them
    pub clients_refused: Counter,
    /// connections that have ended
    pub closed: Counter,
    /// connections that ended because the guest broke a rule
    pub violations: Counter,
    /// connections that ended because the guest did not answer
    pub timeouts: Counter,
    /// packets from or to a context id that is not the guest's or the host's
    pub wrong_cid: Counter,
    /// packets of a socket type that is not offered
    pub wrong_type: Counter,
    /// packets of an unknown operation
    pub wrong_op: Counter,
    /// packets on connections that do not exist
    pub unknown_connection: Counter,
    /// chains that are no packet, or no room for one
    pub malformed: Counter,
    /// failed calls of the host
    pub host_errors: Counter,
    /// times the driver broke a ring, which stops the device until it is reset
    pub stopped: Counter,
}
