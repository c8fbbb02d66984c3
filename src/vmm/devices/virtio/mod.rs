//! virtio devices behind the MMIO transport (virtio 1.2, section 4.2).
//!
//! Every device has the same files: `device.rs` (the type, its configuration space and features),
//! `queue.rs` or a name that says what its requests are, `event_handler.rs` (its events),
//! `metrics.rs`, and `error.rs`.

pub mod balloon;
pub mod block;
mod buffers;
mod counter;
mod counts;
pub mod fs;
mod interrupt;
pub mod mmio;
pub mod net;
mod plug;
mod ring;
pub mod rng;
mod state;
#[cfg(test)]
mod testing;
pub mod vsock;

pub use counter::Counter;
pub use counts::{Counts, Kind};
pub use interrupt::{Interrupt, InterruptState};
pub use plug::{Place, Plug, PlugError};
pub use state::{DeviceState, QueuePosition, RestoreError, SaveError};

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::MutEventSubscriber;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// What the driver has agreed on when it sets DRIVER_OK (virtio 1.2, 3.1.1).
#[derive(Debug)]
pub struct Activation {
    /// Guest memory; clones share the mapping.
    pub memory: GuestMemoryMmap,
    /// The queues, in the device's order, sizes and addresses checked against `memory`,
    /// `event_idx` set as negotiated. A queue that the driver left disabled is `ready() == false`.
    pub queues: Vec<Queue>,
    /// Features that both sides agreed on (`VIRTIO_F_VERSION_1` among them).
    pub features: u64,
    /// How the device interrupts the guest.
    pub interrupt: Arc<Interrupt>,
}

/// A device that cannot be activated is left needing a reset (`DEVICE_NEEDS_RESET`).
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// a queue that the device cannot do without was not set up by the driver
    #[error("queue {0} was not enabled by the driver")]
    QueueNotReady(usize),
    /// a host resource was refused
    #[error("{what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: std::io::Error,
    },
}

/// A virtio device as the transport sees it.
///
/// Register accesses come from vCPU threads, under the device's lock. Queue work is done on the
/// device thread: a device is a [`MutEventSubscriber`], its `init` registers every kick eventfd of
/// [`VirtioDevice::queue_events`] and its backend's descriptors, and a kick that arrives while the
/// device is not active is drained and dropped.
///
/// The transport itself offers `VIRTIO_F_VERSION_1`, `VIRTIO_RING_F_EVENT_IDX` and
/// `VIRTIO_RING_F_INDIRECT_DESC` for every device.
pub trait VirtioDevice: MutEventSubscriber + Send + std::fmt::Debug {
    /// Device id (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// One eventfd per queue, bound to the queue's notification address by the transport.
    fn queue_events(&self) -> &[EventFd];

    /// Feature bits of the device type itself.
    fn device_features(&self) -> u64;

    /// Reads the configuration space at `offset`; bytes beyond it read as 0.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space; ignored by devices without a writable field.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// What it has counted since it was made; none where it counts nothing.
    fn counts(&self) -> Option<Counts> {
        None
    }

    /// Takes something while the machine runs. The driver goes on as it is.
    ///
    /// # Errors
    /// The device has something already, or nothing can be plugged into it.
    fn plug(&mut self, plug: Plug) -> Result<(), PlugError> {
        let _ = plug;
        Err(PlugError::OtherDevice)
    }

    /// Lets go of what was plugged in.
    ///
    /// # Errors
    /// There is nothing.
    fn unplug(&mut self) -> Result<(), PlugError> {
        Err(PlugError::OtherDevice)
    }

    /// Has work stop that is not done under the device's lock, until [`VirtioDevice::resume`]: the
    /// machine is being paused.
    fn pause(&mut self) {}

    /// Lets that work go on.
    fn resume(&mut self) {}

    /// Whether the device can be saved as it is now.
    ///
    /// # Errors
    /// It has state that means nothing elsewhere.
    fn check_savable(&self) -> Result<(), SaveError> {
        Ok(())
    }

    /// How far it is on each queue, for a snapshot; none where no driver is at work.
    fn positions(&self) -> Option<Vec<QueuePosition>>;

    /// Its own fields, for a snapshot.
    fn save(&self) -> DeviceState;

    /// Takes over the fields of the device that the snapshot's guest knows, before it is activated
    /// with queues at their [positions](VirtioDevice::positions).
    ///
    /// # Errors
    /// The state is another device's.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;

    /// The driver reset the device: forget the queues, close what the old driver had open, be
    /// ready for another [`VirtioDevice::activate`].
    fn reset(&mut self);
}

/// Copies the part of a configuration space that a read asks for.
pub fn read_config_space(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Some(from) = usize::try_from(offset).ok().and_then(|o| space.get(o..)) else {
        return;
    };
    let n = from.len().min(data.len());
    data[..n].copy_from_slice(&from[..n]);
}

/// Whether an event belongs to this eventfd.
pub fn is_event_of(fd: std::os::fd::RawFd, event: &EventFd) -> bool {
    event.as_raw_fd() == fd
}
