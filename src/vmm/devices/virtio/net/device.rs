//! The network device: its configuration space, features and states.

use std::os::fd::AsFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use super::error::NetError;
use super::mac;
use super::metrics::NetMetrics;
use super::offload::Features;
use super::rx::{Received, Rx};
use super::tap::{self, Tap};
use super::tx::Tx;
use crate::vmm::config::NetConfig;
use crate::vmm::devices::virtio::buffers::Buffers;
use crate::vmm::devices::virtio::ring::{Drained, Ring, RingError};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, Plug, PlugError,
    QueuePosition, RestoreError, VirtioDevice, read_config_space,
};

/// Entries of the receive and the transmit queue.
const QUEUE_SIZES: [u16; 2] = [256; 2];

/// Bytes of the configuration space that are in use: `mac` and `status`.
const CONFIG_LEN: usize = mac::LEN + 2;

/// Low byte of `status`: `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u8 = 1;

/// A network interface of the guest.
#[derive(Debug)]
pub struct Net {
    /// None in an empty slot.
    pub(super) tap: Option<Tap>,
    /// Whether the device thread looks after the tap.
    pub(super) watched: bool,
    /// A tap that was taken away, until the device thread does not look after it any more.
    pub(super) retired: Option<Tap>,
    config: [u8; CONFIG_LEN],
    /// The address is the configuration's, not a random one.
    mac_given: bool,
    pub(super) queue_events: [EventFd; 2],
    active: Option<Active>,
    /// The tap may have frames: nothing has found it empty since its last event. Remembered, as an
    /// edge is told of only once, and also while the driver is not there.
    tap_has_frames: bool,
    metrics: Arc<NetMetrics>,
}

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
struct Active {
    features: Features,
    rx: Rx,
    tx: Tx,
    interrupt: Arc<Interrupt>,
}

impl Net {
    /// Opens the tap interface.
    ///
    /// One that does not exist is made, if that is permitted, and goes when the device goes.
    ///
    /// # Errors
    /// Those of the tap name it: see [`NetError`].
    pub fn new(config: &NetConfig) -> Result<Self, NetError> {
        let mac = mac::choose(config.mac)?;
        let tap = match (config.opened.get(), config.tap.as_deref()) {
            (Some(file), _) => Some(file.try_clone().map_err(NetError::Descriptor)?),
            (None, name) => name.map(tap::open).transpose()?,
        };
        let event =
            || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(NetError::Descriptor);
        Ok(Self {
            tap: tap.map(Tap::new),
            watched: false,
            retired: None,
            config: config_space(mac),
            mac_given: config.mac.is_some(),
            queue_events: [event()?, event()?],
            active: None,
            tap_has_frames: true,
            metrics: Arc::default(),
        })
    }

    /// A device whose frames go to a socket that keeps packets apart: for fuzz targets, which have no
    /// interface.
    ///
    /// # Errors
    /// The host is out of eventfds.
    #[cfg(fuzzing)]
    pub fn on_socket(socket: std::os::fd::OwnedFd) -> Result<Self, NetError> {
        let mut net = Self::new(&NetConfig {
            tap: None,
            mac: Some([2, 0, 0, 0, 0, 7]),
            opened: crate::vmm::host::Opened::default(),
        })?;
        net.tap = Some(Tap::of_socket(socket));
        Ok(net)
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<NetMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The tap has had a frame come in.
    pub(super) fn tap_readable(&mut self) {
        self.tap_has_frames = true;
        self.receive();
    }

    /// Moves frames to the guest, if the tap has some and the driver is there.
    pub(super) fn receive(&mut self) {
        let Some(Active { rx, interrupt, .. }) = &mut self.active else {
            return;
        };
        let Some(tap) = self.tap.as_ref().filter(|_| self.tap_has_frames) else {
            return;
        };
        match rx.receive(tap.as_fd(), interrupt, &self.metrics) {
            Ok(Received::TapEmpty) => self.tap_has_frames = false,
            Ok(Received::NoBuffers) => {}
            Ok(Received::More) => come_back(self.rx_event()),
            Err(error) => self.stop(&error),
        }
    }

    /// Moves frames to the tap. `true` if it is full, and room in it has to be waited for.
    #[must_use]
    pub(super) fn transmit(&mut self) -> bool {
        let Some(Active { tx, interrupt, .. }) = &mut self.active else {
            return false;
        };
        match tx.transmit(self.tap.as_ref().map(AsFd::as_fd), interrupt, &self.metrics) {
            Ok(Drained::Empty) => false,
            Ok(Drained::Blocked) => true,
            Ok(Drained::More) => {
                come_back(self.tx_event());
                false
            }
            Err(error) => {
                self.stop(&error);
                false
            }
        }
    }

    /// The driver's notification of receive buffers.
    pub(super) fn rx_event(&self) -> &EventFd {
        let [rx, _] = &self.queue_events;
        rx
    }

    /// The driver's notification of frames to send.
    pub(super) fn tx_event(&self) -> &EventFd {
        let [_, tx] = &self.queue_events;
        tx
    }

    /// Stops after the driver broke a ring; only a reset helps.
    fn stop(&mut self, error: &RingError) {
        let Some(Active { interrupt, .. }) = self.active.take() else {
            return;
        };
        // A driver that does it again and again must not fill the host's log.
        if self.metrics.stopped.add(1) == 0 {
            log::warn!("network device stopped: {error:?}");
        }
        if let Err(error) = interrupt.needs_reset() {
            log::debug!("network device: interrupt not raised: {error}");
        }
    }
}

impl VirtioDevice for Net {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Net, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    fn device_features(&self) -> u64 {
        Features::offered().0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let features = Features(features);
        let mut queues = queues.into_iter();
        let mut ring = |index| {
            let queue = queues.next().filter(QueueT::ready);
            let queue = queue.ok_or(ActivateError::QueueNotReady(index))?;
            Ok(Ring::new(queue, memory.clone()))
        };
        let (rx, tx) = (ring(0)?, ring(1)?);
        let offloads = |tap: &Tap| tap.set_offloads(features.tap_offloads());
        self.tap
            .as_ref()
            .map_or(Ok(()), offloads)
            .map_err(|source| ActivateError::Host { what: "setting the tap's offloads", source })?;
        self.active = Some(Active {
            features,
            rx: Rx::new(rx, Buffers::new(&memory), features),
            tx: Tx::new(tx, Buffers::new(&memory), features),
            interrupt,
        });
        // Buffers and frames that were there before DRIVER_OK were notified of to nobody.
        self.tap_has_frames = true;
        come_back(self.rx_event());
        come_back(self.tx_event());
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        let active = self.active.as_ref()?;
        Some(vec![active.rx.position(), active.tx.position()])
    }

    fn save(&self) -> DeviceState {
        let [mac @ .., _, _] = self.config;
        DeviceState::Net { mac }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Net { mac } = *state else {
            return Err(RestoreError::OtherDevice);
        };
        if !self.mac_given {
            self.config = config_space(mac);
        }
        Ok(())
    }

    fn plug(&mut self, plug: Plug) -> Result<(), PlugError> {
        let Plug::Net { tap, mac } = plug else {
            return Err(PlugError::OtherDevice);
        };
        if self.tap.is_some() {
            return Err(PlugError::InUse);
        }
        let mac = mac.map(|mac| mac::choose(Some(mac))).transpose()?;
        let tap = Tap::new(tap);
        let offloads = self.active.as_ref().map_or(0, |active| active.features.tap_offloads());
        let what = "set the tap's offloads";
        tap.set_offloads(offloads).map_err(|source| PlugError::Host { what, source })?;
        if let Some(mac) = mac {
            (self.config, self.mac_given) = (config_space(mac), true);
        }
        (self.tap, self.tap_has_frames) = (Some(tap), true);
        // The device thread is to look after it; and there may be frames.
        come_back(self.rx_event());
        Ok(())
    }

    fn unplug(&mut self) -> Result<(), PlugError> {
        let tap = self.tap.take().ok_or(PlugError::Empty)?;
        // It is open as long as the device thread looks after it: its number must not become another's.
        if std::mem::take(&mut self.watched) {
            self.retired = Some(tap);
            come_back(self.rx_event());
        }
        // What waited for room in it goes where nothing waits.
        come_back(self.tx_event());
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

/// Has the device thread work on a queue, after it has looked at its other events.
fn come_back(event: &EventFd) {
    // Refused only by an eventfd that is at its top, and so signalled.
    let _ = event.write(1);
}

/// `struct virtio_net_config` (virtio 1.2, 5.1.4), little-endian: the address, and a link that is
/// up.
fn config_space(mac: [u8; mac::LEN]) -> [u8; CONFIG_LEN] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, LINK_UP, 0]
}
