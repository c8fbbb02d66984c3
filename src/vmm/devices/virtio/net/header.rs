//! The offload header in front of every frame (virtio 1.2, 5.1.6).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::offload::Features;

/// Bytes of the header, for every driver that has negotiated `VIRTIO_F_VERSION_1`.
pub const LEN: usize = 12;

/// Where the header says how many buffers hold the frame: `num_buffers`, 16 bits.
pub const NUM_BUFFERS: usize = 10;

/// Shortest frame: an Ethernet header.
pub const MIN_FRAME: usize = 14;

/// Longest frame: an Ethernet header, a VLAN tag, and the longest IP packet.
pub const MAX_FRAME: usize = 14 + 4 + 65535;

/// What is left to do for a frame.
///
/// Of a frame that goes to a tap the offsets and sizes are the host kernel's to check, which reads them
/// again from guest memory anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    flags: u8,
    gso_type: u8,
    gso_size: u16,
    /// Where in the frame the checksum begins, if one is to be computed.
    pub checksum_start: u16,
    /// How far behind that it is to be put.
    pub checksum_offset: u16,
}

/// What of a frame is to be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: [u8; LEN]) -> Self {
        let [flags, gso_type, _, _, size @ .., s0, s1, o0, o1, _, _] = bytes;
        Self {
            flags,
            gso_type,
            gso_size: u16::from_le_bytes(size),
            checksum_start: u16::from_le_bytes([s0, s1]),
            checksum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Whether a checksum is to be computed.
    pub fn needs_checksum(self) -> bool {
        u32::from(self.flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
    }

    /// What is to be cut into segments, and how much of it fits into each.
    pub fn cut(self) -> Option<(Cut, u16)> {
        match u32::from(self.gso_type) & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_TCPV4 => Some((Cut::TcpV4, self.gso_size)),
            VIRTIO_NET_HDR_GSO_TCPV6 => Some((Cut::TcpV6, self.gso_size)),
            _ => None,
        }
    }

    /// Whether a driver with these features may send it (5.1.6.2.1).
    pub fn allowed(self, features: Features) -> bool {
        let gso = u32::from(self.gso_type);
        let checksum = self.needs_checksum();
        if checksum && !features.has(VIRTIO_NET_F_CSUM) {
            return false;
        }
        let segmentation = match gso & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => return gso == VIRTIO_NET_HDR_GSO_NONE,
            VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6,
            _ => return false,
        };
        // Each segment's checksum has to be computed, so the frame must ask for it.
        checksum
            && features.has(segmentation)
            && (gso & VIRTIO_NET_HDR_GSO_ECN == 0 || features.has(VIRTIO_NET_F_HOST_ECN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u32, gso_type: u32) -> Header {
        let mut bytes = [0xee; LEN];
        bytes[0] = u8::try_from(flags).unwrap();
        bytes[1] = u8::try_from(gso_type).unwrap();
        Header::parse(bytes)
    }

    #[test]
    fn a_plain_frame_is_always_allowed() {
        assert!(header(0, 0).allowed(Features(0)));
    }

    #[test]
    fn offloads_need_their_feature() {
        let all = Features::offered(1);
        let without = |bit: u32| Features(all.0 & !(1 << bit));
        let checksum = header(VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
        assert!(checksum.allowed(all));
        assert!(!checksum.allowed(without(VIRTIO_NET_F_CSUM)));
        for (gso, bit) in [
            (VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_F_HOST_TSO4),
            (VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_F_HOST_TSO6),
        ] {
            let tso = header(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso);
            assert!(tso.allowed(all));
            assert!(!tso.allowed(without(bit)));
            assert!(!header(0, gso).allowed(all), "segments without checksums");
            let ecn = header(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso | VIRTIO_NET_HDR_GSO_ECN);
            assert!(ecn.allowed(all));
            assert!(!ecn.allowed(without(VIRTIO_NET_F_HOST_ECN)));
        }
    }

    #[test]
    fn unknown_types_are_refused() {
        for gso in [2, 3, 5, 6, 0x7f, 0x80, 0x83, 0xff] {
            assert!(
                !header(VIRTIO_NET_HDR_F_NEEDS_CSUM, gso).allowed(Features::offered(1)),
                "{gso}"
            );
        }
    }
}
