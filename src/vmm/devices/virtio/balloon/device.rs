//! The balloon: its configuration space, features and states.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::error::BalloonError;
use super::metrics::BalloonMetrics;
use super::pages::Turn;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction, Segments};
use crate::vmm::devices::virtio::ring::{Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, QueuePosition, RestoreError,
    VirtioDevice, read_config_space,
};

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM` (5.5.3): the driver takes pages back before it kills.
pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`
pub(super) const REPORTING: u64 = 1 << 5;

/// Entries of each queue. Linux takes no reporting queue below 32.
const QUEUE_SIZE: u16 = 64;

/// Queues: inflate, deflate, reporting.
pub(super) const QUEUES: usize = 3;
pub(super) const INFLATE_QUEUE: usize = 0;
pub(super) const DEFLATE_QUEUE: usize = 1;
pub(super) const REPORTING_QUEUE: usize = 2;

/// Where `actual` is in the configuration space (5.5.4), behind `num_pages`.
const ACTUAL: u64 = 4;

/// A way of the guest to give memory back.
#[derive(Debug)]
pub struct Balloon {
    sizes: Sizes,
    pub(super) queue_events: [EventFd; QUEUES],
    active: Option<Active>,
    metrics: Arc<BalloonMetrics>,
}

/// How large the balloon is, in pages of 4 KiB: the device's own state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// what the host wants it to be
    pub target: u32,
    /// what the driver says that it is; anything
    pub actual: u32,
}

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
struct Active {
    /// Inflate, deflate and, where it was negotiated, reporting.
    rings: Vec<Ring>,
    /// Room for a request's buffers.
    buffers: Buffers,
    /// Room for the ranges of pages that a request names.
    pages: Segments,
    interrupt: Arc<Interrupt>,
}

impl Balloon {
    /// An empty balloon.
    ///
    /// # Errors
    /// The host is out of eventfds.
    pub fn new() -> Result<Self, BalloonError> {
        let event =
            || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(BalloonError::EventFd);
        Ok(Self {
            sizes: Sizes::default(),
            queue_events: [event()?, event()?, event()?],
            active: None,
            metrics: Arc::default(),
        })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<BalloonMetrics> {
        Arc::clone(&self.metrics)
    }

    /// How large the balloon is and shall be.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Asks the driver for a balloon of `pages` pages of 4 KiB. It gets there as far and as fast as
    /// it can; [`Balloon::sizes`] tells how far it is. A driver that comes later reads the wish.
    pub fn set_target(&mut self, pages: u32) {
        self.sizes.target = pages;
        if let Some(active) = &self.active
            && let Err(error) = active.interrupt.configuration_changed()
        {
            // Only a counter at its very top refuses, and then the line is raised already.
            log::debug!("balloon: interrupt not raised: {error}");
        }
    }

    /// Works off a queue, if the driver has set it up.
    pub(super) fn process_queue(&mut self, queue: usize) {
        let Some(Active { rings, buffers, pages, interrupt }) = &mut self.active else {
            return;
        };
        let Some(ring) = rings.get_mut(queue) else {
            return;
        };
        let metrics = &self.metrics;
        let mut turn = Turn::new(pages, metrics);
        // The driver lets the device write to what it reports.
        let direction =
            if queue == REPORTING_QUEUE { Direction::Writable } else { Direction::Readable };
        let drained = ring.drain(buffers, direction, interrupt, |request| match request {
            Ok(request) => match queue {
                INFLATE_QUEUE => turn.inflate(request),
                DEFLATE_QUEUE => turn.deflate(request),
                _ => turn.report(request),
            },
            Err(_) => {
                metrics.malformed.add(1);
                Handled::Used(0)
            }
        });
        match drained {
            Ok(Drained::More | Drained::Blocked) => self.come_back(queue),
            Ok(Drained::Empty) => {}
            Err(error) => self.stop(&error),
        }
    }

    /// Has the device thread work on the queue again, after it has looked at its other events.
    fn come_back(&self, queue: usize) {
        if let Some(event) = self.queue_events.get(queue) {
            // Refused only by an eventfd that is at its top, and so signalled.
            let _ = event.write(1);
        }
    }

    /// Stops after the driver broke a ring; only a reset helps.
    fn stop(&mut self, error: &RingError) {
        let Some(Active { interrupt, .. }) = self.active.take() else {
            return;
        };
        // A driver that does it again and again must not fill the host's log.
        if self.metrics.stopped.add(1) == 0 {
            log::warn!("balloon stopped: {error:?}");
        }
        if let Err(error) = interrupt.needs_reset() {
            log::debug!("balloon: interrupt not raised: {error}");
        }
    }
}

impl VirtioDevice for Balloon {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Balloon, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    fn device_features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [target, actual] = [self.sizes.target, self.sizes.actual].map(u32::to_le_bytes);
        read_config_space([target, actual].as_flattened(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if offset == ACTUAL
            && let Ok(actual) = data.try_into()
        {
            self.sizes.actual = u32::from_le_bytes(actual);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let wanted = if features & REPORTING == 0 { REPORTING_QUEUE } else { QUEUES };
        let mut rings = Vec::with_capacity(wanted);
        for queue in queues.into_iter().take(wanted).filter(QueueT::ready) {
            rings.push(Ring::new(queue, memory.clone()));
        }
        if rings.len() != wanted {
            return Err(ActivateError::QueueNotReady(rings.len()));
        }
        let (buffers, pages) = (Buffers::new(&memory), Segments::new(&memory));
        self.active = Some(Active { rings, buffers, pages, interrupt });
        // Requests that were there before DRIVER_OK were notified of to nobody.
        (0..wanted).for_each(|queue| self.come_back(queue));
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        let active = self.active.as_ref()?;
        let start = QueuePosition { next_avail: 0, next_used: 0 };
        let positions = active.rings.iter().map(Ring::position).chain(std::iter::repeat(start));
        Some(positions.take(QUEUES).collect())
    }

    fn save(&self) -> DeviceState {
        DeviceState::Balloon(self.sizes)
    }

    /// Without a word to the driver, who knows the sizes.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Balloon(sizes) = *state else {
            return Err(RestoreError::OtherDevice);
        };
        self.sizes = sizes;
        Ok(())
    }

    /// A new driver begins with an empty balloon; what the host wants, it still wants.
    fn reset(&mut self) {
        self.active = None;
        self.sizes.actual = 0;
    }
}
