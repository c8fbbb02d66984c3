//! The file system device: its configuration space, features and states.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::budget::Budget;
use super::error::FsError;
use super::export;
use super::guard::Guard;
use super::local::LocalDevices;
use super::metrics::FsMetrics;
use super::session::Session;
use super::worker::{Active, Worker};
use crate::vmm::config::{Export, FsConfig};
use crate::vmm::devices::virtio::ring::Ring;
use crate::vmm::devices::virtio::{
    ActivateError, Activation, DeviceState, QueuePosition, RestoreError, SaveError, VirtioDevice,
    read_config_space,
};

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
    /// None in an empty slot.
    root: Option<Arc<OwnedFd>>,
    /// Names of what was put together to be the root.
    shares: Vec<String>,
    pub(super) queue_events: [EventFd; 2],
    pub(super) worker: Worker,
    metrics: Arc<FsMetrics>,
}

impl Fs {
    /// Takes hold of what is to be shared.
    ///
    /// # Errors
    /// Those of a share name it: see [`FsError`].
    pub fn new(config: &FsConfig) -> Result<Self, FsError> {
        let tag = config.tag.clone();
        if !(1..=TAG_LEN).contains(&tag.len()) || tag.contains('\0') {
            return Err(FsError::Tag(tag));
        }
        let root = config.export.as_ref().map(|export| export::open(&tag, export)).transpose()?;
        let shares = match &config.export {
            Some(Export::Tree(shares)) => shares.keys().cloned().collect(),
            Some(Export::Directory(_)) | None => Vec::new(),
        };
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(FsError::Host);
        let queue_events = [event()?, event()?];
        let [urgent, requests] = &queue_events;
        let clones = [urgent.try_clone(), requests.try_clone()];
        let [urgent, requests] = clones.map(|clone| clone.map_err(FsError::Host));
        let metrics = Arc::<FsMetrics>::default();
        Ok(Self {
            tag,
            root: root.map(Arc::new),
            shares,
            worker: Worker::new([urgent?, requests?], Arc::clone(&metrics))
                .map_err(FsError::Host)?,
            queue_events,
            metrics,
        })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<FsMetrics> {
        Arc::clone(&self.metrics)
    }

    fn guard(&self) -> io::Result<Option<Guard>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let local = LocalDevices::of(root.as_fd(), &self.shares);
        Guard::new(Arc::clone(root), local, Budget::new()?, Arc::clone(&self.metrics)).map(Some)
    }
}

impl VirtioDevice for Fs {
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
        let host = |what| move |source| ActivateError::Host { what, source };
        let mut queues = queues.into_iter();
        let mut ring = |index| {
            let queue = queues.next().filter(QueueT::ready);
            let queue = queue.ok_or(ActivateError::QueueNotReady(index))?;
            Ok(Ring::new(queue, memory.clone()))
        };
        let rings = [ring(0)?, ring(1)?];
        let guard = self.guard().map_err(host("preparing a share"))?;
        let session = Session::new(guard, &memory, Arc::clone(&self.metrics))
            .map_err(io::Error::other)
            .map_err(host("preparing a file system"))?;
        self.worker
            .activate(Active { rings, memory, interrupt, session })
            .map_err(host("starting a file system's thread"))
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
        match self.worker.look(|active| active.session.is_mounted()) {
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
