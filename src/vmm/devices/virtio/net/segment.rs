//! Cuts a frame of TCP that is longer than any wire takes into segments (virtio 1.2, 5.1.6.2): what a
//! tap's kernel does, for a wire that has none.

use super::checksum::Sum;
use super::header::Cut;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// A frame that is not what its offload header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame is not of the kind that is to be cut")]
pub struct OtherKind;

/// A frame that is to be cut, its headers looked at.
#[derive(Debug)]
pub struct Segments<'a> {
    kind: Cut,
    /// Ethernet, IP and TCP headers.
    headers: &'a [u8],
    payload: &'a [u8],
    /// Bytes of the payload in each segment but the last.
    size: usize,
    /// Where in the headers the packet begins.
    ip: usize,
    /// And TCP.
    tcp: usize,
}

impl<'a> Segments<'a> {
    /// Looks at a frame. `checksum_start` is where the guest has said that TCP begins.
    pub fn new(
        frame: &'a [u8],
        kind: Cut,
        size: u16,
        checksum_start: u16,
    ) -> Result<Self, OtherKind> {
        let (ip, ether_type) = network_header(frame).ok_or(OtherKind)?;
        let packet = frame.get(ip..).ok_or(OtherKind)?;
        let header = match kind {
            Cut::TcpV4 if ether_type == libc::ETH_P_IP => ipv4_header(packet),
            Cut::TcpV6 if ether_type == libc::ETH_P_IPV6 => ipv6_header(packet),
            _ => None,
        };
        let tcp = ip + header.ok_or(OtherKind)?;
        if tcp != usize::from(checksum_start) || size == 0 {
            return Err(OtherKind);
        }
        let offset = frame.get(tcp + 12).ok_or(OtherKind)?;
        let length = usize::from(offset >> 4) * 4;
        if length < TCP {
            return Err(OtherKind);
        }
        let (headers, payload) = frame.split_at_checked(tcp + length).ok_or(OtherKind)?;
        Ok(Self { kind, headers, payload, size: size.into(), ip, tcp })
    }

    /// How many segments there are: one at least.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// Bytes of all segments together.
    pub fn bytes(&self) -> usize {
        self.count().saturating_mul(self.headers.len()).saturating_add(self.payload.len())
    }

    /// Bytes of one segment.
    pub fn len_of(&self, index: usize) -> usize {
        self.headers.len() + self.part(index).len()
    }

    fn part(&self, index: usize) -> &'a [u8] {
        let rest = self.payload.get(index.saturating_mul(self.size)..).unwrap_or_default();
        rest.get(..self.size).unwrap_or(rest)
    }

    /// Puts a segment behind what is in `out`.
    pub fn append(&self, index: usize, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(self.headers);
        out.extend_from_slice(self.part(index));
        if let Some(segment) = out.get_mut(from..) {
            // All fields lie within the headers, whose lengths were looked at.
            let _ = self.fill_in(index, segment);
        }
    }

    /// What differs between the segments: lengths, the packet's number, the place in the stream, flags, and
    /// the checksums.
    fn fill_in(&self, index: usize, segment: &mut [u8]) -> Option<()> {
        let (first, last) = (index == 0, index + 1 == self.count());
        let (front, tcp) = segment.split_at_mut_checked(self.tcp)?;
        let packet = front.get_mut(self.ip..)?;
        let packet_len = u16::try_from(packet.len() + tcp.len()).unwrap_or(u16::MAX);
        let addresses = match self.kind {
            Cut::TcpV4 => {
                put(packet, 2, packet_len.to_be_bytes())?;
                let number = u16::from_be_bytes(get(packet, 4)?);
                let number = number.wrapping_add(u16::try_from(index).unwrap_or_default());
                put(packet, 4, number.to_be_bytes())?;
                put(packet, 10, [0; 2])?;
                let sum = Sum::default().add(packet).finish();
                put(packet, 10, sum)?;
                packet.get(12..20)?
            }
            Cut::TcpV6 => {
                let fixed = u16::try_from(IPV6).unwrap_or_default();
                put(packet, 4, packet_len.saturating_sub(fixed).to_be_bytes())?;
                packet.get(8..40)?
            }
        };
        let tcp_len = u32::try_from(tcp.len()).unwrap_or(u32::MAX);
        let pseudo = Sum::default().add(addresses).add_number(6).add_number(tcp_len);

        let skipped = u32::try_from(index.saturating_mul(self.size)).unwrap_or_default();
        let sequence = u32::from_be_bytes(get(tcp, 4)?).wrapping_add(skipped);
        put(tcp, 4, sequence.to_be_bytes())?;
        let flags = tcp.get_mut(13)?;
        if !last {
            *flags &= !(TCP_FIN | TCP_PSH);
        }
        if !first {
            *flags &= !TCP_CWR;
        }
        put(tcp, 16, [0; 2])?;
        let sum = pseudo.add(tcp).finish();
        put(tcp, 16, sum)
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}

/// Where the packet in a frame begins, and of what kind it is.
fn network_header(frame: &[u8]) -> Option<(usize, i32)> {
    let kind = |at| get(frame, at).map(u16::from_be_bytes).map(i32::from);
    match kind(ETHERNET - 2)? {
        libc::ETH_P_8021Q | libc::ETH_P_8021AD => {
            Some((ETHERNET + VLAN_TAG, kind(ETHERNET + VLAN_TAG - 2)?))
        }
        other => Some((ETHERNET, other)),
    }
}

/// Bytes of an IPv4 header that TCP follows.
fn ipv4_header(packet: &[u8]) -> Option<usize> {
    let fixed = packet.first_chunk::<IPV4>()?;
    let [version_and_length, ..] = fixed;
    let [_, _, _, _, _, _, _, _, _, protocol, ..] = fixed;
    let length = usize::from(version_and_length & 0xf) * 4;
    let fits =
        version_and_length >> 4 == 4 && length >= IPV4 && i32::from(*protocol) == libc::IPPROTO_TCP;
    fits.then_some(length)
}

/// Bytes of an IPv6 header that TCP follows; extension headers are not looked through.
fn ipv6_header(packet: &[u8]) -> Option<usize> {
    let [first, _, _, _, _, _, next, ..] = packet.first_chunk::<IPV6>()?;
    (first >> 4 == 6 && i32::from(*next) == libc::IPPROTO_TCP).then_some(IPV6)
}

#[cfg(test)]
mod tests;
