//! A queue being worked on: chains out of the available ring, chains into the used ring, and when
//! to interrupt (virtio 1.2, 2.7).
//!
//! The available side is virtio-queue's. The used side is written here, because several buffers
//! that together hold one packet must appear in one step, and virtio-queue publishes each alone.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::buffers::{Buffers, ChainError, Direction};
use super::{Interrupt, QueuePosition};

/// Chains that are handled before other events of the device thread get their turn. A driver on
/// another CPU can refill its ring for ever.
pub const BATCH: usize = 1024;

/// Bytes after which it is the others' turn too: chains may name the same memory many times over.
const BATCH_BYTES: usize = 64 << 20;

/// A ring that cannot be worked on any further. The driver has broken it: the rings' addresses
/// were checked when the device was activated, so no honest driver meets any of these.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The available ring offers more chains than it has entries, or is not guest memory.
    #[error("the available ring is not as the driver set it up")]
    Available(#[source] virtio_queue::Error),
    /// An entry of the available ring could not be read.
    #[error("entry {0} of the available ring cannot be read")]
    Entry(u16),
    /// There is no such descriptor, and so no way to give the chain back.
    #[error("the available ring names descriptor {head} of a table of {size}")]
    Head {
        /// what the driver wrote
        head: u16,
        /// descriptors in the table
        size: u16,
    },
    /// The rings' flags or indices are not guest memory.
    #[error("the rings cannot be accessed")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// The address of a ring's field overflows.
    #[error("the ring at {0:#x} does not fit into the address space")]
    Address(u64),
}

/// What a device did with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Done; this many bytes were written into it.
    Used(u32),
    /// It cannot be done now; it stays the first of the ring.
    Later,
}

/// Why [`Ring::drain`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The ring is empty, and the driver will notify of the next chain.
    Empty,
    /// A chain has to wait for the device's backend.
    Blocked,
    /// [`BATCH`] chains or [`BATCH_BYTES`] are done, and there may be more: come back without a notification.
    More,
}

/// A queue with the memory it lives in.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    memory: GuestMemoryMmap,
    /// Used entries that are written but that the driver does not see yet.
    unpublished: u16,
    /// The used index when interrupting was last thought about.
    signalled: u16,
}

impl Ring {
    /// A queue that is ready, its addresses checked against `memory`.
    pub fn new(queue: Queue, memory: GuestMemoryMmap) -> Self {
        let signalled = queue.next_used();
        Self { queue, memory, unpublished: 0, signalled }
    }

    /// How far it is. Chains that were given back are published when nobody works on it.
    pub fn position(&self) -> QueuePosition {
        QueuePosition::of(&self.queue)
    }

    /// Chains that the driver offers at the moment.
    pub fn offered(&self) -> Result<u16, RingError> {
        let offered =
            self.queue.avail_idx(&self.memory, Ordering::Acquire).map_err(RingError::Available)?;
        Ok(offered.0.wrapping_sub(self.queue.next_avail()))
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain that the driver offers. It is to be given back with [`Ring::push_used`].
    pub fn pop(&mut self) -> Result<Option<DescriptorChain<&GuestMemoryMmap>>, RingError> {
        let offered =
            self.queue.avail_idx(&self.memory, Ordering::Acquire).map_err(RingError::Available)?;
        let next = self.queue.next_avail();
        if offered.0 == next {
            return Ok(None);
        }
        let size = self.queue.size();
        let mut chains = self.queue.iter(&self.memory).map_err(RingError::Available)?;
        let chain = chains.next().ok_or(RingError::Entry(next))?;
        let head = chain.head_index();
        if head >= size {
            return Err(RingError::Head { head, size });
        }
        Ok(Some(chain))
    }

    /// Undoes the last [`Ring::pop`].
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back with `len` bytes written into it; the driver sees it after
    /// [`Ring::publish`].
    pub fn push_used(&mut self, head: u16, len: u32) -> Result<(), RingError> {
        let index = self.queue.next_used().wrapping_add(self.unpublished);
        // A queue's size is a power of two above 0 from its making on.
        let slot = u64::from(index.checked_rem(self.queue.size()).unwrap_or_default());
        let at = field(self.queue.used_ring(), 4 + 8 * slot)?;
        // le32 id, le32 len
        let element = u64::from(head) | u64::from(len) << 32;
        self.memory.write_obj(element.to_le(), at).map_err(RingError::Memory)?;
        self.unpublished = self.unpublished.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver all chains that were given back since the last call, in one step.
    pub fn publish(&mut self) -> Result<(), RingError> {
        let index = self.queue.next_used().wrapping_add(self.unpublished);
        let at = field(self.queue.used_ring(), 2)?;
        self.memory.store(index.to_le(), at, Ordering::Release).map_err(RingError::Memory)?;
        self.queue.set_next_used(index);
        self.unpublished = 0;
        Ok(())
    }

    /// Publishes, and interrupts the guest if it asked for that (virtio 1.2, 2.7.7.2).
    pub fn signal(&mut self, interrupt: &Interrupt) -> Result<(), RingError> {
        self.publish()?;
        if self.wants_interrupt()?
            && let Err(error) = interrupt.used_buffers()
        {
            // Only a counter at its very top refuses, and then the line is raised already.
            log::debug!("interrupt not raised: {error}");
        }
        Ok(())
    }

    fn wants_interrupt(&mut self) -> Result<bool, RingError> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.signalled, new);
        if new == old {
            return Ok(false);
        }
        // The driver writes its wish, then reads the used index; we did the opposite. One of the
        // two has to see the other's store.
        fence(Ordering::SeqCst);
        let base = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let wanted = self.load(field(base, 4 + 2 * u64::from(self.queue.size()))?)?;
            return Ok(new.wrapping_sub(wanted).wrapping_sub(1) < new.wrapping_sub(old));
        }
        let flags = self.load(field(base, 0)?)?;
        Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn load(&self, at: GuestAddress) -> Result<u16, RingError> {
        let value: u16 = self.memory.load(at, Ordering::Relaxed).map_err(RingError::Memory)?;
        Ok(u16::from_le(value))
    }

    /// Asks the driver not to notify of further chains.
    pub fn disable_notification(&mut self) -> Result<(), RingError> {
        self.queue.disable_notification(&self.memory).map_err(RingError::Available)
    }

    /// Asks the driver to notify of the next chain. `true` if there is one already, of which it may
    /// not notify.
    pub fn enable_notification(&mut self) -> Result<bool, RingError> {
        self.queue.enable_notification(&self.memory).map_err(RingError::Available)
    }

    /// Asks the driver to notify of the next chain that it adds to those that it offers already, and
    /// says how many these are. [`Ring::enable_notification`] is of no use for that: it asks for the
    /// first that is not taken yet, which was added long ago (virtio 1.2, 2.7.10).
    pub fn notify_of_addition(&mut self) -> Result<u16, RingError> {
        if self.queue.event_idx_enabled() {
            let base = self.queue.used_ring();
            let at = field(base, 4 + 8 * u64::from(self.queue.size()))?;
            let added = self
                .queue
                .avail_idx(&self.memory, Ordering::Acquire)
                .map_err(RingError::Available)?;
            self.memory.store(added.0.to_le(), at, Ordering::Release).map_err(RingError::Memory)?;
        } else {
            self.enable_notification()?;
        }
        self.offered()
    }

    /// Hands one chain after the other to `handle` until the ring is empty, then interrupts once.
    ///
    /// `buffers` is the room that the chains' buffers are put into.
    pub fn drain(
        &mut self,
        buffers: &mut Buffers,
        direction: Direction,
        interrupt: &Interrupt,
        mut handle: impl FnMut(Result<&mut Buffers, ChainError>) -> Handled,
    ) -> Result<Drained, RingError> {
        let (mut left, mut bytes) = (BATCH, BATCH_BYTES);
        let drained = 'rings: loop {
            self.disable_notification()?;
            while let Some(chain) = self.pop()? {
                let head = chain.head_index();
                let loaded = buffers.load(chain, direction);
                if loaded.is_ok() {
                    let size = buffers.readable.len().saturating_add(buffers.writable.len());
                    bytes = bytes.saturating_sub(size);
                }
                match handle(loaded.map(|()| &mut *buffers)) {
                    Handled::Used(len) => self.push_used(head, len)?,
                    Handled::Later => {
                        self.put_back();
                        break 'rings Drained::Blocked;
                    }
                }
                left -= 1;
                if left == 0 || bytes == 0 {
                    break 'rings Drained::More;
                }
                // The ring must not be lapped by entries that the driver cannot see.
                if self.unpublished >= self.size() {
                    self.publish()?;
                }
            }
            if !self.enable_notification()? {
                break Drained::Empty;
            }
        };
        self.signal(interrupt)?;
        Ok(drained)
    }
}

fn field(base: u64, offset: u64) -> Result<GuestAddress, RingError> {
    base.checked_add(offset).map(GuestAddress).ok_or(RingError::Address(base))
}

#[cfg(test)]
mod tests;
