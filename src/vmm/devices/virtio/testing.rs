//! The driver's side of a queue, for tests. (virtio-queue's mock lets its used ring overlap the
//! available one from a few entries on.)

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Interrupt;

/// Where buffers may be put: below it are the queues.
pub const DATA: u64 = 0x10000;

/// Bytes of guest memory.
pub const MEMORY: usize = 0x40_0000;

/// A buffer that a driver offers.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    pub address: u64,
    pub len: u32,
    pub writable: bool,
}

/// A buffer for the device to read.
pub fn readable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, writable: false }
}

/// A buffer for the device to write.
pub fn writable(address: u64, len: u32) -> Buffer {
    Buffer { address, len, writable: true }
}

/// Guest memory of one region.
pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

/// An interrupt whose line can be looked at.
pub fn interrupt() -> Arc<Interrupt> {
    Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()))
}

/// How often the interrupt was raised since the last look.
pub fn raised(interrupt: &Interrupt) -> u64 {
    interrupt.line().read().unwrap_or(0)
}

/// A queue in guest memory, and what the driver knows of it.
#[derive(Debug)]
pub struct Driver {
    pub memory: GuestMemoryMmap,
    size: u16,
    base: u64,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

impl Driver {
    /// A queue of `size` entries at the guest address `base`.
    pub fn new(memory: &GuestMemoryMmap, base: u64, size: u16) -> Self {
        Self { memory: memory.clone(), size, base, next_descriptor: 0, available: 0, used: 0 }
    }

    pub fn table(&self) -> u64 {
        self.base
    }

    pub fn available_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub fn used_ring(&self) -> u64 {
        (self.available_ring() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// The device's view of the queue.
    pub fn queue(&self, event_idx: bool) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        queue.set_size(self.size);
        queue.set_desc_table_address(low(self.table()), Some(0));
        queue.set_avail_ring_address(low(self.available_ring()), Some(0));
        queue.set_used_ring_address(low(self.used_ring()), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        queue
    }

    /// Writes a descriptor as it is.
    pub fn descriptor(&self, at: u64, address: u64, len: u32, flags: u32, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&u16::try_from(flags).unwrap().to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.write(at, &bytes);
    }

    /// The descriptor that the next chain begins with.
    pub fn next_head(&self) -> u16 {
        self.next_descriptor % self.size
    }

    /// The used index up to which chains were looked at.
    pub fn seen(&self) -> u16 {
        self.used
    }

    /// Offers a chain of buffers and returns its head.
    pub fn offer(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor % self.size;
        for (i, buffer) in buffers.iter().enumerate() {
            let this = self.next_descriptor % self.size;
            self.next_descriptor = self.next_descriptor.wrapping_add(1);
            let next = self.next_descriptor % self.size;
            let at = self.table() + 16 * u64::from(this);
            self.chained(at, buffer, i + 1 < buffers.len(), next);
        }
        self.offer_head(head);
        head
    }

    /// Offers a chain whose descriptors are in a table of their own at `table`.
    pub fn offer_indirect(&mut self, table: u64, buffers: &[Buffer]) -> u16 {
        for (i, buffer) in buffers.iter().enumerate() {
            let next = u16::try_from(i + 1).unwrap();
            let at = table + 16 * u64::try_from(i).unwrap();
            self.chained(at, buffer, i + 1 < buffers.len(), next);
        }
        let head = self.next_descriptor % self.size;
        self.next_descriptor = self.next_descriptor.wrapping_add(1);
        let len = u32::try_from(16 * buffers.len()).unwrap();
        self.descriptor(self.table() + 16 * u64::from(head), table, len, VRING_DESC_F_INDIRECT, 0);
        self.offer_head(head);
        head
    }

    fn chained(&self, at: u64, buffer: &Buffer, more: bool, next: u16) {
        let mut flags = 0;
        if more {
            flags |= VRING_DESC_F_NEXT;
        }
        if buffer.writable {
            flags |= VRING_DESC_F_WRITE;
        }
        self.descriptor(at, buffer.address, buffer.len, flags, next);
    }

    /// Offers the chain that begins at `head`, which may be anything.
    pub fn offer_head(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.write(self.available_ring() + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Sets the available index, to whatever value.
    pub fn set_available(&self, index: u16) {
        self.write(self.available_ring() + 2, &index.to_le_bytes());
    }

    /// Sets the available ring's flags.
    pub fn set_flags(&self, flags: u16) {
        self.write(self.available_ring(), &flags.to_le_bytes());
    }

    /// Asks for an interrupt when the used index passes `index`.
    pub fn set_used_event(&self, index: u16) {
        self.write(self.available_ring() + 4 + 2 * u64::from(self.size), &index.to_le_bytes());
    }

    /// Chains that came back since the last look: their heads, and bytes written to them.
    pub fn used(&mut self) -> Vec<(u16, u32)> {
        let index: u16 = self.memory.read_obj(GuestAddress(self.used_ring() + 2)).unwrap();
        let mut chains = Vec::new();
        while self.used != index {
            let slot = u64::from(self.used % self.size);
            let element: [u32; 2] =
                self.memory.read_obj(GuestAddress(self.used_ring() + 4 + 8 * slot)).unwrap();
            chains.push((u16::try_from(element[0]).unwrap(), element[1]));
            self.used = self.used.wrapping_add(1);
        }
        chains
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
