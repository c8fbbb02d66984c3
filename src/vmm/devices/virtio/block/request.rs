//! One request of the driver, from its chain to its status byte (virtio 1.2, 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::disk::{Disk, Extent};
use super::error::RequestError;
use super::metrics::BlockMetrics;
use crate::vmm::devices::virtio::buffers::{Buffers, Segments};
use crate::vmm::devices::virtio::ring::Handled;

/// Bytes of the serial number.
pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// Most ranges of a discard.
pub const MAX_DISCARD_RANGES: u32 = 16;

/// Most sectors of a range to discard: 4 GiB, no work for any file system.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 23;

/// Most ranges of a write-zeroes request.
pub const MAX_ZEROES_RANGES: u32 = 1;

/// Most sectors of a range to zero: 16 MiB, which may have to be written.
pub const MAX_ZEROES_SECTORS: u32 = 1 << 15;

/// Bytes of the fixed part of a request.
pub const HEADER: usize = 16;
const RANGE: usize = 16;

/// Whether a feature bit is among those agreed on.
fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// What requests are carried out on.
#[derive(Debug)]
pub struct Executor<'a> {
    /// the disk
    pub disk: &'a Disk,
    /// its serial number, padded with zeroes
    pub id: &'a [u8; ID_BYTES],
    /// features agreed on
    pub features: u64,
    /// where to count
    pub metrics: &'a BlockMetrics,
}

/// The fixed part of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    kind: u32,
    sector: u64,
}

impl Header {
    fn parse(bytes: [u8; HEADER]) -> Self {
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = bytes;
        Self { kind: u32::from_le_bytes([k0, k1, k2, k3]), sector: u64::from_le_bytes(sector) }
    }
}

/// One range of a discard or write-zeroes request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    fn parse(bytes: [u8; RANGE]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes(flags),
        }
    }
}

impl Executor<'_> {
    /// Carries out the request in `buffers` and writes its status.
    pub fn run(&self, buffers: &mut Buffers) -> Handled {
        let Buffers { readable, writable } = buffers;
        // The status is the last writable byte, whatever the framing (2.7.4).
        if !writable.reserve_last() {
            self.metrics.malformed.add(1);
            return Handled::Used(0);
        }
        let room = writable.len();
        let mut header = [0; HEADER];
        if !readable.read(&mut header) {
            self.metrics.malformed.add(1);
            writable.write_reserved(status(VIRTIO_BLK_S_IOERR));
            return Handled::Used(u32::from(writable.is_empty()));
        }
        let result = self.execute(Header::parse(header), readable, writable);
        writable.write_reserved(match &result {
            Ok(()) => status(VIRTIO_BLK_S_OK),
            Err(error) => self.refuse(error),
        });
        // The driver may rely on so many bytes, from the first on, having been written (2.7.8.2);
        // the status is one of them only if it directly follows the others.
        let written = room - writable.len() + usize::from(writable.is_empty());
        Handled::Used(u32::try_from(written).unwrap_or(u32::MAX))
    }

    fn execute(
        &self,
        header: Header,
        readable: &mut Segments,
        writable: &mut Segments,
    ) -> Result<(), RequestError> {
        let metrics = self.metrics;
        match header.kind {
            VIRTIO_BLK_T_IN => {
                let bytes = writable.len();
                self.disk.read(header.sector, writable)?;
                metrics.reads.add(1);
                metrics.read_bytes.add_bytes(bytes);
            }
            VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let bytes = readable.len();
                self.disk.write(header.sector, readable)?;
                self.settle()?;
                metrics.writes.add(1);
                metrics.written_bytes.add_bytes(bytes);
            }
            VIRTIO_BLK_T_FLUSH => {
                self.disk.flush()?;
                metrics.flushes.add(1);
            }
            VIRTIO_BLK_T_GET_ID => {
                let room = writable.len();
                if !writable.write(self.id) {
                    return Err(RequestError::IdTooShort(room));
                }
                metrics.ids.add(1);
            }
            VIRTIO_BLK_T_DISCARD if has(self.features, VIRTIO_BLK_F_DISCARD) => {
                self.check_writable()?;
                self.discard(readable)?;
                metrics.discards.add(1);
            }
            VIRTIO_BLK_T_WRITE_ZEROES if has(self.features, VIRTIO_BLK_F_WRITE_ZEROES) => {
                self.check_writable()?;
                self.write_zeroes(readable)?;
                self.settle()?;
                metrics.zeroed.add(1);
            }
            other => return Err(RequestError::Unsupported(other)),
        }
        Ok(())
    }

    fn discard(&self, list: &mut Segments) -> Result<(), RequestError> {
        let ranges = range_count(list, MAX_DISCARD_RANGES)?;
        for _ in 0..ranges {
            let range = next_range(list)?;
            if range.flags != 0 {
                return Err(RequestError::Unsupported(VIRTIO_BLK_T_DISCARD));
            }
            self.disk.discard(self.extent(range, MAX_DISCARD_SECTORS)?)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, list: &mut Segments) -> Result<(), RequestError> {
        let ranges = range_count(list, MAX_ZEROES_RANGES)?;
        for _ in 0..ranges {
            let range = next_range(list)?;
            if range.flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
                return Err(RequestError::Unsupported(VIRTIO_BLK_T_WRITE_ZEROES));
            }
            let unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
            self.disk.write_zeroes(self.extent(range, MAX_ZEROES_SECTORS)?, unmap)?;
        }
        Ok(())
    }

    fn extent(&self, range: Range, most: u32) -> Result<Extent, RequestError> {
        if range.sectors > most {
            return Err(RequestError::RangeTooLong(range.sectors));
        }
        self.disk.extent(range.sector, u64::from(range.sectors))
    }

    fn check_writable(&self) -> Result<(), RequestError> {
        if self.disk.read_only() { Err(RequestError::ReadOnly) } else { Ok(()) }
    }

    /// Makes a write durable for a driver that will not ask for it (5.2.6.2).
    fn settle(&self) -> Result<(), RequestError> {
        if has(self.features, VIRTIO_BLK_F_FLUSH) { Ok(()) } else { self.disk.flush() }
    }

    fn refuse(&self, error: &RequestError) -> u8 {
        let (counter, code) = match error {
            RequestError::Unsupported(_) | RequestError::HostUnsupported => {
                (&self.metrics.unsupported, VIRTIO_BLK_S_UNSUPP)
            }
            RequestError::Host(_) => (&self.metrics.host_errors, VIRTIO_BLK_S_IOERR),
            RequestError::OutOfRange { .. }
            | RequestError::Unaligned(_)
            | RequestError::ReadOnly
            | RequestError::Ranges(_)
            | RequestError::RangeTooLong(_)
            | RequestError::IdTooShort(_) => (&self.metrics.refused, VIRTIO_BLK_S_IOERR),
        };
        // The first of its kind explains the others, and a guest must not fill the host's log.
        if counter.add(1) == 0 {
            log::warn!("block request refused: {error:?}");
        }
        status(code)
    }
}

fn range_count(list: &Segments, most: u32) -> Result<usize, RequestError> {
    let bytes = list.len();
    let count = bytes / RANGE;
    let allowed = u32::try_from(count).is_ok_and(|count| (1..=most).contains(&count));
    if allowed && bytes.is_multiple_of(RANGE) {
        Ok(count)
    } else {
        Err(RequestError::Ranges(bytes))
    }
}

fn next_range(list: &mut Segments) -> Result<Range, RequestError> {
    let mut bytes = [0; RANGE];
    let left = list.len();
    if list.read(&mut bytes) { Ok(Range::parse(bytes)) } else { Err(RequestError::Ranges(left)) }
}

/// A status of the specification, of which the bindings make a u32.
fn status(code: u32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
