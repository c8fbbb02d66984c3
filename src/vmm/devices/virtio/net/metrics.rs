//! What a network device counts.

use serde::Serialize;

use crate::vmm::devices::virtio::counter::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct NetMetrics {
    /// frames given to the guest
    pub rx_frames: Counter,
    /// their bytes, offload header included
    pub rx_bytes: Counter,
    /// frames that no buffer of the guest could hold
    pub rx_oversize: Counter,
    /// frames from the tap without a whole Ethernet header
    pub rx_runts: Counter,
    /// reads that the tap failed
    pub rx_host_errors: Counter,
    /// times frames had to wait for buffers of the guest
    pub rx_no_buffers: Counter,
    /// times frames had to wait for the rate limit
    pub rx_throttled: Counter,
    /// frames taken from the guest
    pub tx_frames: Counter,
    /// their bytes, offload header included
    pub tx_bytes: Counter,
    /// frames of the guest that are shorter than an Ethernet header or longer than any frame
    pub tx_bad_length: Counter,
    /// frames of the guest with an offload header that was not agreed on, or that the host's
    /// kernel refused
    pub tx_bad_header: Counter,
    /// frames of the guest that the tap did not take
    pub tx_host_errors: Counter,
    /// times frames had to wait for room in the tap
    pub tx_blocked: Counter,
    /// times frames of the guest had to wait for the rate limit
    pub tx_throttled: Counter,
    /// requests on the control queue that the device does not offer
    pub refused: Counter,
    /// times the other end of a socket was found gone, or to send what is no frame
    pub link_ends: Counter,
    /// chains that are no buffer at all, of any queue
    pub malformed: Counter,
    /// times the driver broke a ring, which stops the device until it is reset
    pub stopped: Counter,
}
