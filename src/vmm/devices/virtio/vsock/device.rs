//! The vsock device: its configuration space, its three queues, and what moves between them and
//! the muxer.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::error::VsockError;
use super::link::Room;
use super::listener::Listener;
use super::metrics::VsockMetrics;
use super::muxer::Muxer;
use super::packet::HEADER_LEN;
use crate::vmm::config::VsockConfig;
use crate::vmm::devices::virtio::buffers::{Buffers, Direction, Segments};
use crate::vmm::devices::virtio::ring::{BATCH, Drained, Handled, Ring, RingError};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, QueuePosition, RestoreError,
    VirtioDevice, read_config_space,
};

/// Entries of the queues: receive, transmit, event. Linux fills the receive queue with buffers of a
/// page each, and keeps 8 for events.
pub(super) const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`, the one event that there is.
const TRANSPORT_RESET: [u8; EVENT_SIZE as usize] = [0; EVENT_SIZE as usize];

/// Bytes of an event.
const EVENT_SIZE: u32 = 4;

/// The guest's stream sockets to the host.
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u64,
    muxer: Muxer,
    events: [EventFd; 3],
    active: Option<Active>,
    /// The driver's connections ended with another machine; it is told when it is at work.
    lost_connections: bool,
    metrics: Arc<VsockMetrics>,
}

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
struct Active {
    rx: Ring,
    tx: Ring,
    event: Ring,
    /// The chain that is being worked on.
    buffers: Buffers,
    /// Where the header of a packet to the guest goes.
    header: Segments,
    interrupt: Arc<Interrupt>,
    /// Packets of the guest wait until resets have been delivered.
    tx_waits: bool,
    /// The guest is to hear of a [`TRANSPORT_RESET`].
    owes_transport_reset: bool,
    /// It has been told; buffers for events that it offered then. When it has given the used one
    /// back, it has dealt with the event, which takes all connections that it has.
    told: Option<u16>,
}

/// Why work on a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There is nothing left that could be done.
    Done,
    /// Others should have their turn first.
    More,
}

impl Vsock {
    /// Makes the device, and listens at its socket. Clients are let in when the guest's driver is
    /// ready.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn new(config: &VsockConfig) -> Result<Self, VsockError> {
        // 0 to 2 and the highest of 32 bits are reserved, the upper 32 bits are 0 (virtio 1.2,
        // 5.10.4).
        if !(3..u64::from(u32::MAX)).contains(&config.guest_cid) {
            return Err(VsockError::Cid(config.guest_cid));
        }
        let event = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|source| VsockError::Host { what: "eventfd", source })
        };
        let listener = match &config.listener {
            Some(listener) => {
                Listener::take_over(listener.clone(), &config.uds_path, config.ports.clone())?
            }
            None => Listener::bind(&config.uds_path)?,
        };
        let metrics = Arc::<VsockMetrics>::default();
        Ok(Self {
            guest_cid: config.guest_cid,
            muxer: Muxer::new(config.guest_cid, listener, Arc::clone(&metrics))?,
            events: [event()?, event()?, event()?],
            active: None,
            lost_connections: false,
            metrics,
        })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<VsockMetrics> {
        Arc::clone(&self.metrics)
    }

    pub(super) fn backend(&self) -> &Muxer {
        &self.muxer
    }

    pub(super) fn rx_event(&self) -> &EventFd {
        &self.events[0]
    }

    pub(super) fn tx_event(&self) -> &EventFd {
        &self.events[1]
    }

    pub(super) fn event_event(&self) -> &EventFd {
        &self.events[2]
    }

    /// Takes in what has happened to the sockets.
    pub(super) fn process_backend(&mut self) {
        self.muxer.process_events();
        self.process_rx();
    }

    /// Takes the guest's packets, and sends what answers them.
    pub(super) fn process_tx(&mut self) {
        self.run(|active, muxer, metrics| active.take_packets(muxer, metrics), 1);
        self.process_rx();
    }

    /// Sends to the guest what there is room for.
    pub(super) fn process_rx(&mut self) {
        self.run(Active::send_packets, 0);
        if self.active.as_ref().is_some_and(|active| active.tx_waits)
            && self.muxer.can_take_packets()
        {
            self.come_back(1);
        }
    }

    /// Sends an event that is owed, if the guest has given a buffer for it.
    pub(super) fn process_event_queue(&mut self) {
        let work = |active: &mut Active, muxer: &mut Muxer, metrics: &VsockMetrics| {
            let progress = active.send_event(metrics)?;
            if active.has_heard()?
                && let Err(error) = muxer.open()
            {
                log::error!("vsock: clients are not let in: {error}");
            }
            Ok(progress)
        };
        self.run(work, 2);
    }

    fn run(
        &mut self,
        work: impl FnOnce(&mut Active, &mut Muxer, &VsockMetrics) -> Result<Progress, RingError>,
        queue: usize,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        match work(active, &mut self.muxer, &self.metrics) {
            Ok(Progress::Done) => {}
            Ok(Progress::More) => self.come_back(queue),
            Err(error) => self.stop(&error),
        }
    }

    /// Has the device thread work on a queue again, after it has looked at its other events.
    fn come_back(&self, queue: usize) {
        if let Some(event) = self.events.get(queue) {
            // Refused only by an eventfd that is at its top, and so signalled.
            let _ = event.write(1);
        }
    }

    /// Stops after the driver broke a ring; only a reset helps.
    fn stop(&mut self, error: &RingError) {
        if self.metrics.stopped.add(1) == 0 {
            log::warn!("vsock device stopped: {error:?}");
        }
        self.muxer.close();
        if let Some(active) = self.active.take()
            && let Err(error) = active.interrupt.needs_reset()
        {
            log::warn!("vsock device: cannot interrupt: {error}");
        }
    }
}

impl Active {
    fn new(activation: Activation) -> Result<Self, ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let [rx, tx, event] = rings(queues, &memory)?;
        Ok(Self {
            rx,
            tx,
            event,
            buffers: Buffers::new(&memory),
            header: Segments::new(&memory),
            interrupt,
            tx_waits: false,
            owes_transport_reset: false,
            told: None,
        })
    }

    fn take_packets(
        &mut self,
        muxer: &mut Muxer,
        metrics: &VsockMetrics,
    ) -> Result<Progress, RingError> {
        let Self { tx, buffers, interrupt, .. } = self;
        let drained = tx.drain(buffers, Direction::Readable, interrupt, |packet| {
            if !muxer.can_take_packets() {
                return Handled::Later;
            }
            match packet {
                Ok(buffers) => muxer.packet(&mut buffers.readable),
                Err(_) => {
                    metrics.malformed.add(1);
                }
            }
            Handled::Used(0)
        })?;
        self.tx_waits = drained == Drained::Blocked;
        Ok(if drained == Drained::More { Progress::More } else { Progress::Done })
    }

    fn send_packets(
        &mut self,
        muxer: &mut Muxer,
        metrics: &VsockMetrics,
    ) -> Result<Progress, RingError> {
        let mut left = BATCH;
        let progress = loop {
            // The guest's new buffers are of interest only where they are waited for.
            self.rx.disable_notification()?;
            while left > 0 && muxer.has_output() && self.send_packet(muxer, metrics)? {
                left -= 1;
            }
            if !muxer.has_output() {
                break Progress::Done;
            }
            if left == 0 {
                break Progress::More;
            }
            if !self.rx.enable_notification()? {
                break Progress::Done;
            }
        };
        self.rx.signal(&self.interrupt)?;
        Ok(progress)
    }

    /// Uses one buffer of the guest, if there is one.
    fn send_packet(
        &mut self,
        muxer: &mut Muxer,
        metrics: &VsockMetrics,
    ) -> Result<bool, RingError> {
        let Some(chain) = self.rx.pop()? else {
            return Ok(false);
        };
        let head = chain.head_index();
        let usable = self.buffers.load(chain, Direction::Writable).is_ok()
            && self.buffers.writable.split_front(HEADER_LEN, &mut self.header)
            && !self.buffers.writable.is_empty();
        if !usable {
            metrics.malformed.add(1);
            self.rx.push_used(head, 0)?;
            return Ok(true);
        }
        let mut room = Room { header: &mut self.header, payload: &mut self.buffers.writable };
        match muxer.fill(&mut room) {
            Some(len) => self.rx.push_used(head, len)?,
            None => self.rx.put_back(),
        }
        Ok(true)
    }

    /// Whether the guest has just dealt with the event that it was told of.
    fn has_heard(&mut self) -> Result<bool, RingError> {
        let Some(before) = self.told else {
            return Ok(false);
        };
        let heard = self.event.offered()? > before;
        if heard {
            self.told = None;
        }
        Ok(heard)
    }

    fn send_event(&mut self, metrics: &VsockMetrics) -> Result<Progress, RingError> {
        while self.owes_transport_reset {
            let Some(chain) = self.event.pop()? else {
                if self.event.enable_notification()? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let sent = self.buffers.load(chain, Direction::Writable).is_ok()
                && self.buffers.writable.write(&TRANSPORT_RESET);
            if sent {
                self.owes_transport_reset = false;
                // Before the driver sees the event, and can give its buffer back.
                self.told = Some(self.event.notify_of_addition()?);
                self.event.push_used(head, EVENT_SIZE)?;
            } else {
                metrics.malformed.add(1);
                self.event.push_used(head, 0)?;
            }
        }
        self.event.signal(&self.interrupt)?;
        Ok(Progress::Done)
    }
}

/// The three queues, none of which the device can do without.
fn rings(queues: Vec<Queue>, memory: &GuestMemoryMmap) -> Result<[Ring; 3], ActivateError> {
    if let Some(missing) = queues.iter().position(|queue| !queue.ready()) {
        return Err(ActivateError::QueueNotReady(missing));
    }
    let queues: [Queue; 3] =
        queues.try_into().map_err(|queues: Vec<_>| ActivateError::QueueNotReady(queues.len()))?;
    Ok(queues.map(|queue| Ring::new(queue, memory.clone())))
}

impl VirtioDevice for Vsock {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Vsock, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.events
    }

    fn device_features(&self) -> u64 {
        // Without any, the device has stream sockets (virtio 1.2, 5.10.3).
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut active = Active::new(activation)?;
        active.owes_transport_reset = std::mem::take(&mut self.lost_connections);
        // Who is let in before the guest has heard of a transport reset would be reset, too.
        if !active.owes_transport_reset {
            self.muxer
                .open()
                .map_err(|source| ActivateError::Host { what: "watch the vsock socket", source })?;
        }
        self.active = Some(active);
        // What was in the queues before DRIVER_OK was notified of to nobody.
        for queue in 0..self.events.len() {
            self.come_back(queue);
        }
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        let active = self.active.as_ref()?;
        Some([&active.rx, &active.tx, &active.event].map(Ring::position).into())
    }

    fn save(&self) -> DeviceState {
        let unheard = |active: &Active| active.owes_transport_reset || active.told.is_some();
        let owes = self.active.as_ref().is_some_and(unheard);
        let connected = owes || self.muxer.has_connections();
        let next_port = self.muxer.next_port();
        DeviceState::Vsock { guest_cid: self.guest_cid, connected, next_port }
    }

    /// A guest that has connections, or another context id than it knows, is told that its
    /// connections are gone and that it is to read its id anew (virtio 1.2, 5.10.6.7).
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Vsock { guest_cid, connected, next_port } = *state else {
            return Err(RestoreError::OtherDevice);
        };
        self.muxer.set_next_port(next_port);
        self.lost_connections = connected || guest_cid != self.guest_cid;
        Ok(())
    }

    fn reset(&mut self) {
        self.muxer.close();
        self.active = None;
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
