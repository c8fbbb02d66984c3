//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! Every write comes from the guest and is checked against the state of the device: what the
//! driver may not do now is ignored, and counted. The states (virtio 1.2, 3.1.1), each entered by
//! setting one more bit of the status register; writing 0 leads back to the start from any:
//!
//! ```text
//!  reset ── ACKNOWLEDGE ── DRIVER ── FEATURES_OK ── DRIVER_OK
//!                             │           │
//!                          features     queues
//! ```
//!
//! `FEATURES_OK` does not stay set for features that the device did not offer; with `DRIVER_OK`
//! the queues are checked against guest memory and handed to the device. Where that fails, the
//! device waits for a reset (`DEVICE_NEEDS_RESET`).

use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

use super::{
    ActivateError, Activation, DeviceState, Interrupt, InterruptState, QueuePosition, RestoreError,
    VirtioDevice,
};
use crate::vmm::exit::lock;

/// A device as the transport and the device thread share it.
pub type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// Register a queue's index is written to.
pub const QUEUE_NOTIFY: u64 = 0x050;

/// "virt"
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "AMPL"
const VENDOR: u32 = 0x4c50_4d41;
/// Where the device's own configuration space begins.
const CONFIG_SPACE: u64 = 0x100;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;

/// What the status register can be, but for [`FAILED`].
const STATUSES: [u32; 5] = [
    0,
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];

/// Features of the transport itself and of its queues.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

const DESCRIPTOR_SIZE: usize = 16;
const DESCRIPTOR_ALIGN: u64 = 16;
const AVAILABLE_ALIGN: u64 = 2;
const USED_ALIGN: u64 = 4;

/// A queue that the driver set up wrongly.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QueueError {
    /// not a power of two, or above the device's maximum
    #[error("queue {queue}: {size} is no size for it")]
    Size {
        /// index of the queue
        queue: usize,
        /// what the driver wrote
        size: u32,
    },
    /// a ring is not aligned or not inside guest memory
    #[error("queue {queue}: the {ring} cannot be at {address:#x}")]
    Address {
        /// index of the queue
        queue: usize,
        /// which of its three parts
        ring: &'static str,
        /// what the driver wrote
        address: u64,
    },
}

/// A device with its registers, for snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TransportState {
    device_type: u32,
    status: u32,
    accepted: u64,
    device_features_word: u32,
    driver_features_word: u32,
    queue: u32,
    queues: Vec<QueueSetup>,
    interrupt: InterruptState,
    /// Where the device is on its queues, if it is at work.
    positions: Option<Vec<QueuePosition>>,
    device: DeviceState,
}

impl TransportState {
    /// The device's own fields.
    pub fn device(&self) -> &DeviceState {
        &self.device
    }
}

/// A queue as the driver sets it up.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct QueueSetup {
    size: u32,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// The registers of one device.
pub struct MmioTransport {
    device: SharedDevice,
    interrupt: Arc<Interrupt>,
    memory: GuestMemoryMmap,
    device_type: u32,
    offered: u64,
    max_sizes: Vec<u16>,
    status: u32,
    accepted: u64,
    device_features_word: u32,
    driver_features_word: u32,
    queue: u32,
    queues: Vec<QueueSetup>,
    refused_writes: u64,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device_type)
            .field("status", &self.status)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// The registers of `device`, which interrupts the guest by `interrupt`.
    pub fn new(device: SharedDevice, interrupt: Arc<Interrupt>, memory: GuestMemoryMmap) -> Self {
        let (device_type, offered, max_sizes) = {
            let device = lock(&device);
            let features = device.device_features() | TRANSPORT_FEATURES;
            (device.device_type(), features, device.queue_sizes().to_vec())
        };
        let mut transport = Self {
            device,
            interrupt,
            memory,
            device_type,
            offered,
            max_sizes,
            status: 0,
            accepted: 0,
            device_features_word: 0,
            driver_features_word: 0,
            queue: 0,
            queues: Vec::new(),
            refused_writes: 0,
        };
        transport.clear();
        transport
    }

    /// Reads `data.len()` bytes at `offset`. Registers are read by 4 bytes at a time; another
    /// width gives 0.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            lock(&self.device).read_config(offset, data);
            return;
        }
        data.fill(0);
        if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.register(offset).to_le_bytes();
        }
    }

    /// Writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG_SPACE) {
            // virtio 1.2, 2.5.1: not before the driver knows what it drives.
            if self.status & DRIVER != 0 {
                lock(&self.device).write_config(offset, data);
            }
            return;
        }
        let accepted = match <[u8; 4]>::try_from(data) {
            Ok(word) => self.set_register(offset, u32::from_le_bytes(word)),
            Err(_) => false,
        };
        if !accepted {
            self.refused_writes += 1;
        }
    }

    /// The device with its registers; `device` is this transport's, locked.
    pub fn save(&self, device: &dyn VirtioDevice) -> TransportState {
        TransportState {
            device_type: self.device_type,
            status: self.status,
            accepted: self.accepted,
            device_features_word: self.device_features_word,
            driver_features_word: self.driver_features_word,
            queue: self.queue,
            queues: self.queues.clone(),
            interrupt: self.interrupt.save(),
            positions: device.positions(),
            device: device.save(),
        }
    }

    /// Brings the device, which is new, to where the saved one was. Its interrupt is to be bound,
    /// and the interrupt controllers restored, before.
    ///
    /// # Errors
    /// The state is not one of this device, or cannot be one that a driver has brought about.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        if state.device_type != self.device_type || state.queues.len() != self.max_sizes.len() {
            return Err(RestoreError::OtherDevice);
        }
        if !STATUSES.contains(&(state.status & !FAILED)) {
            return Err(RestoreError::Registers("a status that no driver sets"));
        }
        let missing = state.accepted & !self.offered;
        if missing != 0 {
            return Err(RestoreError::Features { missing });
        }
        self.status = state.status;
        self.accepted = state.accepted;
        self.device_features_word = state.device_features_word;
        self.driver_features_word = state.driver_features_word;
        self.queue = state.queue;
        self.queues.clone_from(&state.queues);
        lock(&self.device).restore(&state.device)?;
        if let Some(positions) = &state.positions {
            if self.status & DRIVER_OK == 0 || positions.len() != self.queues.len() {
                return Err(RestoreError::Registers("queues at work without a driver"));
            }
            self.try_activate(positions)?;
        }
        self.interrupt
            .restore(state.interrupt)
            .map_err(|source| ActivateError::Host { what: "raise an interrupt", source }.into())
    }

    /// Writes that came at the wrong time, in the wrong width or to no register.
    pub fn refused_writes(&self) -> u64 {
        self.refused_writes
    }

    fn register(&self, offset: u64) -> u32 {
        let selected = self.selected();
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.device_type,
            0x00c => VENDOR,
            0x010 => word(self.offered, self.device_features_word),
            0x034 => selected.map_or(0, |q| self.max_sizes.get(q).copied().unwrap_or(0).into()),
            0x044 => selected.and_then(|q| self.queues.get(q)).map_or(0, |q| q.ready.into()),
            0x060 => self.interrupt.status(),
            0x070 => self.status(),
            // No shared memory regions: their length reads as -1 (virtio 1.2, 4.2.2).
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => self.interrupt.generation(),
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        self.status | if self.interrupt.waits_for_reset() { NEEDS_RESET } else { 0 }
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue).ok().filter(|q| *q < self.queues.len())
    }

    /// Whether the write was one that the driver may do now.
    fn set_register(&mut self, offset: u64, value: u32) -> bool {
        match offset {
            0x014 => self.device_features_word = value,
            0x020 => return self.accept_features(value),
            0x024 => self.driver_features_word = value,
            0x030 => self.queue = value,
            0x038 => return self.set_up_queue(|q| q.size = value),
            0x044 => return self.set_up_queue(|q| q.ready = value == 1),
            QUEUE_NOTIFY => return self.notify(value),
            0x064 => self.interrupt.acknowledge(value),
            0x070 => return self.set_status(value),
            0x080 => return self.set_up_queue(|q| set_low(&mut q.descriptors, value)),
            0x084 => return self.set_up_queue(|q| set_high(&mut q.descriptors, value)),
            0x090 => return self.set_up_queue(|q| set_low(&mut q.available, value)),
            0x094 => return self.set_up_queue(|q| set_high(&mut q.available, value)),
            0x0a0 => return self.set_up_queue(|q| set_low(&mut q.used, value)),
            0x0a4 => return self.set_up_queue(|q| set_high(&mut q.used, value)),
            // Selects a shared memory region; there is none.
            0x0ac => {}
            _ => return false,
        }
        true
    }

    fn accept_features(&mut self, value: u32) -> bool {
        if self.status & (DRIVER | FEATURES_OK) != DRIVER {
            return false;
        }
        match self.driver_features_word {
            0 => set_low(&mut self.accepted, value),
            1 => set_high(&mut self.accepted, value),
            // Linux writes no other word; bits from 64 on are not offered.
            _ => return value == 0,
        }
        true
    }

    fn set_up_queue(&mut self, change: impl FnOnce(&mut QueueSetup)) -> bool {
        if self.status & (FEATURES_OK | DRIVER_OK) != FEATURES_OK {
            return false;
        }
        let Some(queue) = self.selected().and_then(|q| self.queues.get_mut(q)) else {
            return false;
        };
        change(queue);
        true
    }

    /// A notification that no ioeventfd took, as happens where KVM has none left.
    fn notify(&self, queue: u32) -> bool {
        let device = lock(&self.device);
        let event = usize::try_from(queue).ok().and_then(|q| device.queue_events().get(q));
        // A counter that would overflow says that the device has yet to look: nothing is lost.
        event.is_some_and(|event| event.write(1).is_ok())
    }

    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let known = self.status;
        let added = value & !known & !NEEDS_RESET;
        let lost = known & !value;
        match added {
            // A driver sets bits and never clears one without a reset.
            _ if lost != 0 => false,
            0 => true,
            FAILED => {
                self.status |= FAILED;
                true
            }
            ACKNOWLEDGE => self.advance(0, ACKNOWLEDGE),
            DRIVER => self.advance(ACKNOWLEDGE, DRIVER),
            // Some drivers set both at once.
            both if both == ACKNOWLEDGE | DRIVER => self.advance(0, both),
            FEATURES_OK if self.features_are_fine() => {
                self.advance(ACKNOWLEDGE | DRIVER, FEATURES_OK)
            }
            DRIVER_OK if self.advance(ACKNOWLEDGE | DRIVER | FEATURES_OK, DRIVER_OK) => {
                self.activate();
                true
            }
            _ => false,
        }
    }

    /// Adds `bits` to the status if it is `before`.
    fn advance(&mut self, before: u32, bits: u32) -> bool {
        let fits = self.status == before;
        if fits {
            self.status |= bits;
        }
        fits
    }

    fn features_are_fine(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn activate(&mut self) {
        if let Err(error) = self.try_activate(&[]) {
            log::warn!("virtio device {}: {error}", self.device_type);
            if let Err(error) = self.interrupt.needs_reset() {
                log::warn!("virtio device {}: cannot interrupt: {error}", self.device_type);
            }
        }
    }

    /// With a queue that has no position at its start.
    fn try_activate(&self, positions: &[QueuePosition]) -> Result<(), ActivateError> {
        let mut queues = self.checked_queues().map_err(|error| ActivateError::Host {
            what: "the driver set up its queues wrongly",
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        for (queue, position) in queues.iter_mut().zip(positions) {
            position.apply(queue);
        }
        lock(&self.device).activate(Activation {
            memory: self.memory.clone(),
            queues,
            features: self.accepted,
            interrupt: self.interrupt.clone(),
        })
    }

    fn checked_queues(&self) -> Result<Vec<Queue>, QueueError> {
        let event_idx = self.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let pairs = self.queues.iter().zip(&self.max_sizes).enumerate();
        pairs.map(|(i, (setup, max))| setup.check(i, *max, event_idx, &self.memory)).collect()
    }

    fn reset(&mut self) {
        // Before its queues are forgotten: the device may be working on them.
        if self.status & DRIVER_OK != 0 {
            lock(&self.device).reset();
        }
        self.interrupt.reset();
        self.clear();
    }

    fn clear(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.device_features_word = 0;
        self.driver_features_word = 0;
        self.queue = 0;
        self.queues = self
            .max_sizes
            .iter()
            .map(|max| QueueSetup { size: (*max).into(), ..Default::default() })
            .collect();
    }
}

impl QueueSetup {
    /// The queue, its size and addresses checked (virtio 1.2, 2.7); one that the driver did not
    /// enable is not ready.
    fn check(
        &self,
        queue: usize,
        max: u16,
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Result<Queue, QueueError> {
        let bad_size = || QueueError::Size { queue, size: self.size };
        let mut checked = Queue::new(max).map_err(|_| bad_size())?;
        if !self.ready {
            return Ok(checked);
        }
        let size = u16::try_from(self.size).map_err(|_| bad_size())?;
        checked.try_set_size(size).map_err(|_| bad_size())?;
        let n = usize::from(size);
        let inside = |ring, address: u64, align: u64, bytes: usize| {
            let fine = address.is_multiple_of(align)
                // The queue takes an available ring at 0 for one that was never set.
                && address != 0
                && memory.check_range(GuestAddress(address), bytes);
            if fine { Ok(GuestAddress(address)) } else { Err((ring, address)) }
        };
        let addresses = || {
            let descriptors = "descriptor table";
            Ok((
                inside(descriptors, self.descriptors, DESCRIPTOR_ALIGN, n * DESCRIPTOR_SIZE)?,
                inside("available ring", self.available, AVAILABLE_ALIGN, 6 + 2 * n)?,
                inside("used ring", self.used, USED_ALIGN, 6 + 8 * n)?,
            ))
        };
        let wrong = |(ring, address)| QueueError::Address { queue, ring, address };
        let (descriptors, available, used) = addresses().map_err(wrong)?;
        let set = |ring, address: GuestAddress, done: Result<(), virtio_queue::Error>| {
            done.map_err(|_| wrong((ring, address.0)))
        };
        set("descriptor table", descriptors, checked.try_set_desc_table_address(descriptors))?;
        set("available ring", available, checked.try_set_avail_ring_address(available))?;
        set("used ring", used, checked.try_set_used_ring_address(used))?;
        checked.set_event_idx(event_idx);
        checked.set_ready(true);
        Ok(checked)
    }
}

fn word(bits: u64, index: u32) -> u32 {
    let bytes = bits.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    match index {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_low(target: &mut u64, value: u32) {
    *target = (*target & !u64::from(u32::MAX)) | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = (*target & u64::from(u32::MAX)) | (u64::from(value) << 32);
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
