//! A request's descriptors, as they were when they were checked.
//!
//! fuse-backend-rs walks a descriptor chain by itself, twice. The guest may change its descriptors in
//! between, so the walks are over a copy, on a ring in memory that the guest does not have.

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::vmm::devices::virtio::buffers::MAX_CHAIN_SEGMENTS;

/// Entries of the ring: as many as a chain may have.
const SIZE: u16 = 512;
const _: () = assert!(SIZE as usize == MAX_CHAIN_SEGMENTS);

const TABLE: u64 = 0;
const AVAILABLE: u64 = TABLE + 16 * SIZE as u64;
const USED: u64 = 0x2800;
const MEMORY: usize = 0x4000;

/// The copy cannot be made: too long a chain, or a host without memory.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// more descriptors than a chain may have
    #[error("the descriptor chain is too long")]
    TooLong,
    /// the ring cannot be set up
    #[error("cannot set up a ring of the device's own")]
    Ring(#[source] virtio_queue::Error),
    /// its memory cannot be had or accessed
    #[error("cannot use memory of the device's own")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// its memory cannot be mapped
    #[error("cannot map memory of the device's own")]
    Map(#[source] vm_memory::mmap::FromRangesError),
}

/// A ring of the device's own, with room for one chain.
#[derive(Debug)]
pub struct Copy {
    memory: GuestMemoryMmap,
    queue: Queue,
    offered: u16,
    descriptors: Vec<(u64, u32, bool)>,
}

impl Copy {
    /// Room for a chain.
    pub fn new() -> Result<Self, CopyError> {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).map_err(CopyError::Map)?;
        let mut queue = Queue::new(SIZE).map_err(CopyError::Ring)?;
        queue.try_set_desc_table_address(GuestAddress(TABLE)).map_err(CopyError::Ring)?;
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).map_err(CopyError::Ring)?;
        queue.try_set_used_ring_address(GuestAddress(USED)).map_err(CopyError::Ring)?;
        queue.set_ready(true);
        let descriptors = Vec::with_capacity(MAX_CHAIN_SEGMENTS);
        Ok(Self { memory, queue, offered: 0, descriptors })
    }

    /// Forgets the last chain.
    pub fn clear(&mut self) {
        self.descriptors.clear();
    }

    /// Notes the next descriptor of the chain, while there is room for it.
    pub fn push(&mut self, descriptor: &Descriptor) {
        if self.descriptors.len() <= MAX_CHAIN_SEGMENTS {
            let writable = descriptor.is_write_only();
            self.descriptors.push((descriptor.addr().0, descriptor.len(), writable));
        }
    }

    /// The noted descriptors as a chain.
    pub fn chain(&mut self) -> Result<DescriptorChain<&GuestMemoryMmap>, CopyError> {
        let last = self.descriptors.len().saturating_sub(1);
        for (index, (address, len, writable)) in (0u16..).zip(&self.descriptors) {
            if index >= SIZE {
                return Err(CopyError::TooLong);
            }
            let mut flags = 0;
            if usize::from(index) < last {
                flags |= VRING_DESC_F_NEXT;
            }
            if *writable {
                flags |= VRING_DESC_F_WRITE;
            }
            // le64 address, le32 len, le16 flags, le16 next (virtio 1.2, 2.7.5)
            let low = address.to_le();
            let next = index.wrapping_add(1);
            let high = u64::from(*len) | u64::from(flags) << 32 | u64::from(next) << 48;
            let at = GuestAddress(TABLE + 16 * u64::from(index));
            self.memory.write_obj([low, high.to_le()], at).map_err(CopyError::Memory)?;
        }
        // Every entry of the available ring is 0, and so the head of the chain.
        self.offered = self.offered.wrapping_add(1);
        let index = GuestAddress(AVAILABLE + 2);
        self.memory.write_obj(self.offered.to_le(), index).map_err(CopyError::Memory)?;
        let mut chains = self.queue.iter(&self.memory).map_err(CopyError::Ring)?;
        chains.next().ok_or(CopyError::TooLong)
    }
}
