//! Features, and what they mean for the tap.

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, c_uint};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS,
};

const OFFERED: [u32; 11] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
];

/// What several pairs of queues need: how many of them are in use is asked for by a queue.
const OFFERED_WITH_PAIRS: [u32; 2] = [VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ];

/// Features that were agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// What a device with so many pairs of queues offers.
    pub fn offered(pairs: u16) -> Self {
        let several: &[u32] = if pairs > 1 { &OFFERED_WITH_PAIRS } else { &[] };
        Self(OFFERED.iter().chain(several).fold(0, |features, bit| features | 1 << bit))
    }

    /// Whether a feature bit is among them.
    pub fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// What the tap may leave undone in frames for the guest (`TUNSETOFFLOAD`).
    ///
    /// The kernel refuses segmentation without checksums and ECN without segmentation, which
    /// virtio 1.2, 5.1.3.1 asks of drivers too: without the one, the other counts as not agreed on.
    pub fn tap_offloads(self) -> c_uint {
        if !self.has(VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        let mut offloads = TUN_F_CSUM;
        for (bit, flag) in
            [(VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4), (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6)]
        {
            if self.has(bit) {
                offloads |= flag;
            }
        }
        if offloads != TUN_F_CSUM && self.has(VIRTIO_NET_F_GUEST_ECN) {
            offloads |= TUN_F_TSO_ECN;
        }
        offloads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(bits: &[u32]) -> Features {
        Features(bits.iter().fold(0, |features, bit| features | 1 << bit))
    }

    #[test]
    fn offloads_follow_their_conditions() {
        assert_eq!(Features(0).tap_offloads(), 0);
        assert_eq!(features(&[VIRTIO_NET_F_GUEST_TSO4]).tap_offloads(), 0);
        assert_eq!(
            features(&[VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN]).tap_offloads(),
            TUN_F_CSUM
        );
        assert_eq!(
            Features::offered(1).tap_offloads(),
            TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
        );
    }
}
