//! The block device: its configuration space, features and states.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::disk::{Disk, SECTOR_SHIFT};
use super::error::BlockError;
use super::metrics::BlockMetrics;
use super::request::{
    Executor, HEADER, ID_BYTES, MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZEROES_RANGES,
    MAX_ZEROES_SECTORS,
};
use crate::vmm::config::DiskConfig;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction};
use crate::vmm::devices::virtio::ring::{Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, Plug, PlugError,
    QueuePosition, RestoreError, VirtioDevice, read_config_space,
};
use crate::vmm::rate::{Limiter, RateLimiter, Timer};

/// Entries of the request queue.
const QUEUE_SIZE: u16 = 256;

/// Data segments of a request: all but the header's and the status's.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// log2 of the sectors of a physical block: 4 KiB, the page cache's unit.
const PHYSICAL_BLOCK_EXP: u8 = 3;

/// Bytes of the configuration space that are in use: up to `write_zeroes_may_unmap`.
const CONFIG_LEN: usize = 60;

/// A disk of the guest.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    /// What it is when nothing is plugged in: capacity, and what the driver may do.
    slot: (u64, bool),
    id: [u8; ID_BYTES],
    config: [u8; CONFIG_LEN],
    pub(super) queue_events: [EventFd; 1],
    active: Option<Active>,
    limiter: Limiter,
    /// The limits of what is there when nothing is plugged in.
    slot_limits: RateLimiter,
    pub(super) timer: Timer,
    metrics: Arc<BlockMetrics>,
}

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
struct Active {
    ring: Ring,
    buffers: Buffers,
    interrupt: Arc<Interrupt>,
    features: u64,
}

impl Block {
    /// Opens the disk, and locks it against other writers.
    ///
    /// # Errors
    /// All name the disk: see [`BlockError`].
    pub fn new(config: &DiskConfig) -> Result<Self, BlockError> {
        let id = serial_number(config.path.as_deref(), config.serial.as_deref())?;
        let disk = Disk::open(config)?;
        let event =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(BlockError::Descriptor)?;
        Ok(Self {
            id,
            config: config_space(disk.sectors()),
            slot: (disk.sectors(), config.read_only),
            disk,
            queue_events: [event],
            active: None,
            limiter: Limiter::new(config.rate_limiter),
            slot_limits: config.rate_limiter,
            timer: Timer::new().map_err(BlockError::Descriptor)?,
            metrics: Arc::default(),
        })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<BlockMetrics> {
        Arc::clone(&self.metrics)
    }

    /// Has another disk in the place of what was there, and tells the driver of its capacity.
    fn exchange(&mut self, disk: Disk, id: [u8; ID_BYTES]) -> Result<(), PlugError> {
        self.config = config_space(disk.sectors());
        (self.disk, self.id) = (disk, id);
        let Some(active) = &self.active else { return Ok(()) };
        let what = "tell the guest of a disk's capacity";
        active.interrupt.configuration_changed().map_err(|source| PlugError::Host { what, source })
    }

    /// Sets other limits, whose buckets are full.
    fn limit(&mut self, limits: RateLimiter) {
        self.limiter = Limiter::new(limits);
        // What waited for the old ones does not have to.
        self.come_back();
    }

    /// Works off the queue, if the driver has set one up.
    pub(super) fn process_queue(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        let executor = Executor {
            disk: &self.disk,
            id: &self.id,
            features: active.features,
            metrics: &self.metrics,
        };
        let Active { ring, buffers, interrupt, .. } = active;
        let limiter = &mut self.limiter;
        let mut wait = None;
        let drained = ring.drain(buffers, Direction::Both, interrupt, |request| match request {
            Ok(buffers) => {
                wait = limiter.wait();
                if wait.is_some() {
                    executor.metrics.throttled.add(1);
                    return Handled::Later;
                }
                limiter.charge(payload(buffers));
                executor.run(buffers)
            }
            Err(_) => {
                executor.metrics.malformed.add(1);
                Handled::Used(0)
            }
        });
        match drained {
            Ok(Drained::More) => self.come_back(),
            Ok(Drained::Blocked) => self.timer.wake_in(wait.unwrap_or_default()),
            Ok(Drained::Empty) => {}
            Err(error) => self.stop(&error),
        }
    }

    /// Has the device thread work on the queue again, after it has looked at its other events.
    fn come_back(&self) {
        for event in &self.queue_events {
            // Refused only by an eventfd that is at its top, and so signalled.
            let _ = event.write(1);
        }
    }

    /// Stops after the driver broke its ring; only a reset helps.
    fn stop(&mut self, error: &RingError) {
        let Some(Active { interrupt, .. }) = self.active.take() else {
            return;
        };
        // A driver that does it again and again must not fill the host's log.
        if self.metrics.stopped.add(1) == 0 {
            log::warn!("block device stopped: {error:?}");
        }
        if let Err(error) = interrupt.needs_reset() {
            log::debug!("block device: interrupt not raised: {error}");
        }
    }
}

impl VirtioDevice for Block {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Block, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    fn device_features(&self) -> u64 {
        let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY];
        // Not what is plugged in: a driver does not ask again.
        let (_, read_only) = self.slot;
        let by_kind: &[u32] = if read_only {
            &[VIRTIO_BLK_F_RO]
        } else {
            &[VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]
        };
        always.iter().chain(by_kind).fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let queue = queues
            .into_iter()
            .next()
            .filter(QueueT::ready)
            .ok_or(ActivateError::QueueNotReady(0))?;
        let buffers = Buffers::new(&memory);
        self.active = Some(Active { ring: Ring::new(queue, memory), buffers, interrupt, features });
        // Requests that were there before DRIVER_OK were notified of to nobody.
        self.come_back();
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        self.active.as_ref().map(|active| vec![active.ring.position()])
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block { sectors: self.disk.sectors(), slot: self.disk.is_slot() }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Block { sectors, slot } = *state else {
            return Err(RestoreError::OtherDevice);
        };
        // A slot without any capacity has what is plugged into it later.
        if slot && (sectors > 0 || self.disk.is_empty()) {
            self.slot.0 = sectors;
            self.disk.make_slot(sectors);
            self.config = config_space(sectors);
        } else if sectors != self.disk.sectors() {
            let found = self.disk.sectors();
            return Err(RestoreError::DiskSize { saved: sectors, found });
        }
        Ok(())
    }

    fn plug(&mut self, plug: Plug) -> Result<(), PlugError> {
        let Plug::Disk { file, bytes, read_only, serial, rate_limiter } = plug else {
            return Err(PlugError::OtherDevice);
        };
        if !self.disk.is_empty() {
            return Err(PlugError::InUse);
        }
        let id = serial_number(None, serial.as_deref())?;
        if bytes == 0 {
            return Err(BlockError::Empty { path: PathBuf::new() }.into());
        }
        // A driver that has agreed on a read-only disk writes to none.
        let (_, offered_read_only) = self.slot;
        self.limit(rate_limiter);
        self.exchange(Disk::plugged(file, bytes, read_only || offered_read_only), id)
    }

    fn unplug(&mut self) -> Result<(), PlugError> {
        if self.disk.is_empty() {
            return Err(PlugError::Empty);
        }
        let (sectors, read_only) = self.slot;
        self.limit(self.slot_limits);
        self.exchange(Disk::empty(sectors, read_only), [0; ID_BYTES])
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

/// Bytes that a request moves: all of its buffers but header and status.
fn payload(buffers: &Buffers) -> usize {
    let all = buffers.readable.len().saturating_add(buffers.writable.len());
    all.saturating_sub(HEADER + 1)
}

fn serial_number(path: Option<&Path>, serial: Option<&str>) -> Result<[u8; ID_BYTES], BlockError> {
    let mut id = [0; ID_BYTES];
    let Some(serial) = serial else {
        return Ok(id);
    };
    let printable = !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_graphic());
    match id.get_mut(..serial.len()) {
        Some(field) if printable => field.copy_from_slice(serial.as_bytes()),
        _ => {
            return Err(BlockError::Serial {
                path: path.map(Path::to_owned).unwrap_or_default(),
                serial: serial.to_owned(),
            });
        }
    }
    Ok(id)
}

/// `struct virtio_blk_config` (virtio 1.2, 5.2.4), little-endian.
fn config_space(sectors: u64) -> [u8; CONFIG_LEN] {
    let mut space = [0; CONFIG_LEN];
    let mut put = |offset: usize, bytes: &[u8]| {
        space[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(1u32 << SECTOR_SHIFT).to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXP]);
    // min_io_size: a physical block
    put(26, &(1u16 << PHYSICAL_BLOCK_EXP).to_le_bytes());
    // num_queues
    put(34, &1u16.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_DISCARD_RANGES.to_le_bytes());
    // discard_sector_alignment
    put(44, &(1u32 << PHYSICAL_BLOCK_EXP).to_le_bytes());
    put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_ZEROES_RANGES.to_le_bytes());
    // write_zeroes_may_unmap
    put(56, &[1]);
    space
}
