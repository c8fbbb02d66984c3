//! The file system device: its configuration space, features and states.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::error::FsError;
use super::metrics::FsMetrics;
use super::source::Source;
use super::worker::{Active, Worker};
use crate::vmm::config::FsConfig;
use crate::vmm::devices::virtio::ring::Ring;
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Kind, QueuePosition, RestoreError, SaveError,
    VirtioDevice, read_config_space,
};
use crate::vmm::host::Host;

/// Entries of the queue for urgent messages, and of the one queue for requests. The driver makes no
/// request of more pages than the latter has entries, less four for headers: with 512 it is the
/// 256 pages that FUSE permits.
const QUEUE_SIZES: [u16; 2] = [128, 512];

/// Bytes of the tag's field in the configuration space.
const TAG_LEN: usize = 36;

/// A file system of the guest.
#[derive(Debug)]
pub struct Fs {
    tag: String,
    pub(super) queue_events: [EventFd; 2],
    pub(super) worker: Worker,
    metrics: Arc<FsMetrics>,
}

impl Fs {
    /// Takes hold of what is to be shared. The thread that serves it is there from now on, confined
    /// as `host` has it.
    ///
    /// # Errors
    /// Those of a share name it: see [`FsError`].
    pub fn new(config: &FsConfig, host: &Host) -> Result<Self, FsError> {
        let tag = config.tag.clone();
        if !(1..=TAG_LEN).contains(&tag.len()) || tag.contains('\0') {
            return Err(FsError::Tag(tag));
        }
        let source = Source::of(config)?;
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(FsError::Host);
        let queue_events = [event()?, event()?];
        let [urgent, requests] = &queue_events;
        let clones = [urgent.try_clone(), requests.try_clone()];
        let [urgent, requests] = clones.map(|clone| clone.map_err(FsError::Host));
        let metrics = Arc::<FsMetrics>::default();
        Ok(Self {
            tag,
            worker: Worker::new([urgent?, requests?], source, host, Arc::clone(&metrics))
                .map_err(FsError::Host)?,
            queue_events,
            metrics,
        })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<FsMetrics> {
        Arc::clone(&self.metrics)
    }
}

impl VirtioDevice for Fs {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Fs, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    fn device_features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&config_space(&self.tag), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features: _, interrupt } = activation;
        let mut queues = queues.into_iter();
        let mut ring = |index| {
            let queue = queues.next().filter(QueueT::ready);
            let queue = queue.ok_or(ActivateError::QueueNotReady(index))?;
            Ok(Ring::new(queue, memory.clone()))
        };
        let rings = [ring(0)?, ring(1)?];
        self.worker
            .activate(Active { rings, memory, interrupt, session: None })
            .map_err(|source| ActivateError::Host { what: "waking a file system's thread", source })
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        self.worker.look(|active| active.rings.iter().map(Ring::position).collect())
    }

    fn pause(&mut self) {
        self.worker.pause();
    }

    fn resume(&mut self) {
        self.worker.resume();
    }

    fn check_savable(&self) -> Result<(), SaveError> {
        match self.worker.look(Active::is_mounted) {
            Some(true) => Err(SaveError::Mounted { tag: self.tag.clone() }),
            Some(false) | None => Ok(()),
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Fs { tag: self.tag.clone() }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Fs { tag } = state else {
            return Err(RestoreError::OtherDevice);
        };
        // The driver has read it.
        self.tag.clone_from(tag);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker.deactivate();
    }
}

/// `struct virtio_fs_config` (virtio 1.2, 5.11.4): the tag, padded with zeros, and the number of
/// request queues, little-endian.
fn config_space(tag: &str) -> [u8; TAG_LEN + 4] {
    let mut space = [0; TAG_LEN + 4];
    for (field, byte) in space.iter_mut().zip(tag.bytes().take(TAG_LEN)) {
        *field = byte;
    }
    space[TAG_LEN] = 1;
    space
}
