//! The header that every packet begins with (virtio 1.2, 5.10.6), little-endian.

/// The host's context id.
pub const HOST_CID: u64 = libc::VMADDR_CID_HOST as u64;

/// No port: what "any port" is called.
pub const PORT_ANY: u32 = libc::VMADDR_PORT_ANY;

/// Bytes of a header.
pub const HEADER_LEN: usize = HEADER_SIZE as usize;

/// The same, as packets count.
pub const HEADER_SIZE: u32 = 44;

/// Most payload of one packet in bytes, in either direction: what Linux limits itself to.
pub const MAX_PAYLOAD: u32 = 64 * 1024;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one socket type that is offered.
pub const TYPE_STREAM: u16 = 1;

/// What a packet says (`VIRTIO_VSOCK_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Somebody wants to connect.
    Request = 1,
    /// The connection is accepted.
    Response = 2,
    /// The connection is refused, or no longer exists.
    Reset = 3,
    /// The sender will not receive, or not send, any more.
    Shutdown = 4,
    /// Payload.
    Data = 5,
    /// How much the sender can take; every other packet says that too.
    CreditUpdate = 6,
    /// The sender wants a [`Op::CreditUpdate`].
    CreditRequest = 7,
}

impl TryFrom<u16> for Op {
    type Error = u16;

    fn try_from(value: u16) -> Result<Self, u16> {
        Ok(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return Err(value),
        })
    }
}

/// The directions that a [`Op::Shutdown`] closes, in its header's flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shutdown(u32);

impl Shutdown {
    /// The sender receives no more.
    pub const RECEIVE: Self = Self(1);
    /// The sender sends no more.
    pub const SEND: Self = Self(2);
    /// The sender is done.
    pub const BOTH: Self = Self(3);

    /// The directions of a header's flags; bits without a meaning are ignored.
    pub fn from_flags(flags: u32) -> Self {
        Self(flags & Self::BOTH.0)
    }

    /// The flags of a header.
    pub fn flags(self) -> u32 {
        self.0
    }

    /// Whether all directions of `other` are closed.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Closes the directions of `other` too; a direction never opens again.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The two ports of a connection, which is what it is known by: the context ids are always the
/// host's and the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// A header as it is on the wire: any value in any field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// sender's context id
    pub src_cid: u64,
    /// receiver's context id
    pub dst_cid: u64,
    /// sender's port
    pub src_port: u32,
    /// receiver's port
    pub dst_port: u32,
    /// bytes of payload that follow the header
    pub len: u32,
    /// socket type
    pub socket_type: u16,
    /// see [`Op`]
    pub op: u16,
    /// see [`Shutdown`]
    pub flags: u32,
    /// bytes that the sender can hold
    pub buf_alloc: u32,
    /// bytes that the sender has passed on to its reader, modulo 2³²
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet without payload from the host to the guest.
    pub fn to_guest(guest_cid: u64, ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: guest_cid,
            src_port: ports.host,
            dst_port: ports.guest,
            socket_type: TYPE_STREAM,
            op: op as u16,
            ..Self::default()
        }
    }

    /// Takes a header from its bytes.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            socket_type: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest: &mut [u8] = &mut bytes;
        let fields: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.socket_type.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for field in fields {
            let (here, after) = rest.split_at_mut(field.len());
            here.copy_from_slice(field);
            rest = after;
        }
        bytes
    }
}

/// Fields of a header that are still to be taken.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // A header's bytes are exactly its fields' bytes, so there always is a next one.
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_the_specifications() {
        let mut bytes = [0; HEADER_LEN];
        for (byte, value) in bytes.iter_mut().zip(1..) {
            *byte = value;
        }
        let header = Header::decode(&bytes);
        assert_eq!(header.src_cid, 0x0807_0605_0403_0201);
        assert_eq!(header.dst_port, 0x1817_1615);
        assert_eq!(header.len, 0x1c1b_1a19);
        assert_eq!(header.socket_type, 0x1e1d);
        assert_eq!(header.op, 0x201f);
        assert_eq!(header.fwd_cnt, 0x2c2b_2a29);
    }

    proptest! {
        #[test]
        fn bytes_survive(bytes: [u8; 32], rest: [u8; 12]) {
            let mut all = [0; HEADER_LEN];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            prop_assert_eq!(Header::decode(&all).encode(), all);
        }
    }

    #[test]
    fn ops_are_their_numbers() {
        for value in 1..=7 {
            assert_eq!(Op::try_from(value).map(|op| op as u16), Ok(value));
        }
        assert_eq!(Op::try_from(0), Err(0));
        assert_eq!(Op::try_from(8), Err(8));
    }
}
