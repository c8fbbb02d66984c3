//! The network device: its configuration space, features and states.

use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::backend::{Backend, Wire};
use super::control::Control;
use super::error::NetError;
use super::mac;
use super::metrics::NetMetrics;
use super::offload::Features;
use super::rx::{Received, Rx};
use super::tx::{Sent, Tx};
use crate::vmm::config::NetConfig;
use crate::vmm::devices::virtio::buffers::Buffers;
use crate::vmm::devices::virtio::ring::{Drained, Ring, RingError};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, Plug, PlugError,
    QueuePosition, RestoreError, VirtioDevice, read_config_space,
};
use crate::vmm::rate::{Limiter, RateLimiter, Timer};

/// Entries of a receive and a transmit queue.
const QUEUE_SIZE: u16 = 256;

/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// Bytes of the configuration space that are in use: `mac`, `status` and `max_virtqueue_pairs`.
const CONFIG_LEN: usize = mac::LEN + 4;

/// Low byte of `status`: `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u8 = 1;

/// A network interface of the guest.
#[derive(Debug)]
pub struct Net {
    /// None in an empty slot; several for a tap with several queues.
    pub(super) links: Vec<Link>,
    /// What was taken away, until the device thread does not look after it any more.
    pub(super) retired: Vec<Backend>,
    address: [u8; mac::LEN],
    /// The address is the configuration's, not a random one.
    mac_given: bool,
    /// Pairs of queues that there are.
    most_pairs: u16,
    /// Of these, how many the driver uses.
    pairs: u16,
    queue_sizes: Vec<u16>,
    pub(super) queue_events: Vec<EventFd>,
    active: Option<Active>,
    limits: Limits,
    /// The limits of what is there when nothing is plugged in.
    slot_limits: (RateLimiter, RateLimiter),
    pub(super) timer: Timer,
    metrics: Arc<NetMetrics>,
}

/// One way for frames.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) backend: Backend,
    /// Whether the device thread looks after it.
    pub(super) watched: bool,
    /// It may have frames: nothing has found it empty since its last event. Remembered, as an
    /// edge is told of only once, and also while the driver is not there.
    has_frames: bool,
    /// The guest has been told that it leads nowhere any more.
    told_down: bool,
}

/// Of all queues of a direction together.
#[derive(Debug)]
struct Limits {
    rx: Limiter,
    tx: Limiter,
}

/// What there is between the driver's DRIVER_OK and its reset.
#[derive(Debug)]
struct Active {
    features: Features,
    /// By their numbers; none that the driver has not set up.
    pairs: Vec<Pair>,
    control: Option<(usize, Control)>,
    interrupt: Arc<Interrupt>,
}

#[derive(Debug)]
struct Pair {
    rx: Rx,
    tx: Tx,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Receive(usize),
    Transmit(usize),
    Control,
}

impl Net {
    /// A device with so many pairs of queues; what its frames go to is opened, if it is not yet.
    ///
    /// # Errors
    /// They name it: see [`NetError`].
    pub fn new(config: &NetConfig, pairs: u8) -> Result<Self, NetError> {
        let address = mac::choose(config.mac)?;
        let wire = match (config.opened.get(), &config.backend) {
            (Some(wire), _) => Some(wire.try_clone().map_err(NetError::Descriptor)?),
            (None, backend) => backend.as_ref().map(Wire::open).transpose()?,
        };
        let mut queue_sizes = vec![QUEUE_SIZE; usize::from(pairs) * 2];
        if pairs > 1 {
            queue_sizes.push(CONTROL_SIZE);
        }
        let event = |_: &u16| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let events: Result<Vec<_>, _> = queue_sizes.iter().map(event).collect();
        Ok(Self {
            links: wire.map(links).unwrap_or_default(),
            retired: Vec::new(),
            address,
            mac_given: config.mac.is_some(),
            most_pairs: pairs.into(),
            pairs: 1,
            queue_sizes,
            queue_events: events.map_err(NetError::Descriptor)?,
            active: None,
            limits: Limits::new(config.rx_rate_limiter, config.tx_rate_limiter),
            slot_limits: (config.rx_rate_limiter, config.tx_rate_limiter),
            timer: Timer::new().map_err(NetError::Descriptor)?,
            metrics: Arc::default(),
        })
    }

    /// A device whose frames go to a socket that keeps packets apart, in the place of a tap, or to a stream
    /// socket: for fuzz targets, which have no interface.
    ///
    /// # Errors
    /// The host is out of eventfds.
    #[cfg(fuzzing)]
    pub fn on_wire(wire: Wire, pairs: u8) -> Result<Self, NetError> {
        let config = NetConfig { mac: Some([2, 0, 0, 0, 0, 7]), ..NetConfig::default() };
        let mut net = Self::new(&config, pairs)?;
        net.links = links(wire);
        Ok(net)
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<NetMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What the queue with this index is for.
    pub(super) fn role(&self, queue: usize) -> Role {
        let pair = queue / 2;
        // Where the control queue is depends on what was agreed on.
        let control = self.active.as_ref().and_then(|active| active.control.as_ref());
        match queue % 2 {
            _ if control.is_some_and(|(at, _)| *at == queue) => Role::Control,
            0 => Role::Receive(pair),
            _ => Role::Transmit(pair),
        }
    }

    /// A link has had a frame come in.
    pub(super) fn link_readable(&mut self, link: usize) {
        if let Some(link) = self.links.get_mut(link) {
            link.has_frames = true;
        }
        self.receive(self.pair_of(link));
    }

    /// The pair that a link's frames go to.
    fn pair_of(&self, link: usize) -> usize {
        link.checked_rem(self.pairs.into()).unwrap_or_default()
    }

    /// The link that a pair's frames go to.
    fn link_of(&self, pair: usize) -> usize {
        pair.checked_rem(self.links.len()).unwrap_or_default()
    }

    /// Pairs whose frames go to this link.
    pub(super) fn senders_of(&self, link: usize) -> impl Iterator<Item = usize> + use<> {
        let links = self.links.len().max(1);
        (link..usize::from(self.most_pairs)).step_by(links)
    }

    /// Moves frames to the guest, if there are some and the driver is there.
    pub(super) fn receive(&mut self, pair: usize) {
        for link in (pair..self.links.len()).step_by(usize::from(self.pairs).max(1)) {
            if !self.receive_from(link, pair) {
                break;
            }
        }
    }

    /// Moves frames from one link: whether the pair may have room for more.
    fn receive_from(&mut self, link: usize, pair: usize) -> bool {
        let Some(Active { pairs, interrupt, .. }) = &mut self.active else {
            return false;
        };
        // A pair that is not in use has no links.
        let Some(Pair { rx, .. }) = pairs.get_mut(pair) else {
            return false;
        };
        let Some(link) = self.links.get_mut(link).filter(|link| link.has_frames) else {
            return true;
        };
        let limiter = &mut self.limits.rx;
        match rx.receive(&mut link.backend, limiter, interrupt, &self.metrics) {
            Ok(Received::Nothing) => {
                link.has_frames = false;
                self.tell_ends();
                true
            }
            Ok(Received::NoBuffers) => false,
            Ok(Received::Limited(wait)) => {
                self.timer.wake_in(wait);
                false
            }
            Ok(Received::More) => {
                self.come_back(2 * pair);
                true
            }
            Err(error) => {
                self.stop(&error);
                false
            }
        }
    }

    /// Moves frames from the guest. The link that is full, if one is: room in it has to be waited for.
    #[must_use]
    pub(super) fn transmit(&mut self, pair: usize) -> Option<usize> {
        let link = self.link_of(pair);
        let Active { pairs, interrupt, .. } = self.active.as_mut()?;
        let Pair { tx, .. } = pairs.get_mut(pair)?;
        let to = self.links.get_mut(link).map(|link| &mut link.backend);
        let sent = match tx.transmit(to, &mut self.limits.tx, interrupt, &self.metrics) {
            Ok(sent) => sent,
            Err(error) => {
                self.stop(&error);
                return None;
            }
        };
        self.tell_ends();
        match sent {
            Sent::All => None,
            Sent::Full => Some(link),
            Sent::Limited(wait) => {
                self.timer.wake_in(wait);
                None
            }
            Sent::More => {
                self.come_back(2 * pair + 1);
                None
            }
        }
    }

    /// All pairs of queues, of which nothing is known but that they may go on now.
    pub(super) fn all_pairs(&self) -> impl Iterator<Item = usize> + use<> {
        0..usize::from(self.most_pairs)
    }

    /// Does what is asked for on the control queue.
    pub(super) fn answer(&mut self) {
        let Some(Active { control: Some((queue, control)), interrupt, .. }) = &mut self.active
        else {
            return;
        };
        let (queue, before) = (*queue, self.pairs);
        let most = self.most_pairs;
        match control.answer(&mut self.pairs, most, interrupt, &self.metrics) {
            Ok(Drained::More) => self.come_back(queue),
            Ok(Drained::Empty | Drained::Blocked) => {}
            Err(error) => self.stop(&error),
        }
        if self.pairs != before {
            // Frames go to other pairs now, which nobody has notified of them.
            self.all_pairs().for_each(|pair| self.come_back(2 * pair));
        }
    }

    /// Tells the guest that its cable is cut, if that has just been found out.
    fn tell_ends(&mut self) {
        let ended = |link: &mut Link| {
            let ended = !link.backend.is_up() && !link.told_down;
            link.told_down |= ended;
            ended
        };
        if self.links.iter_mut().filter_map(|link| ended(link).then_some(())).count() > 0 {
            self.metrics.link_ends.add(1);
            self.configuration_changed();
        }
    }

    fn configuration_changed(&self) {
        if let Some(active) = &self.active
            && let Err(error) = active.interrupt.configuration_changed()
        {
            log::debug!("network device: interrupt not raised: {error}");
        }
    }

    /// `struct virtio_net_config` (virtio 1.2, 5.1.4), little-endian. An empty slot's cable is up: whatever
    /// is plugged in at its other end, the guest need not be told.
    fn config_space(&self) -> [u8; CONFIG_LEN] {
        let [a, b, c, d, e, f] = self.address;
        let up = self.links.is_empty() || self.links.iter().any(|link| link.backend.is_up());
        // Not there without several pairs.
        let pairs = if self.most_pairs > 1 { self.most_pairs } else { 0 };
        let [low, high] = pairs.to_le_bytes();
        [a, b, c, d, e, f, if up { LINK_UP } else { 0 }, 0, low, high]
    }

    /// Has the device thread work on a queue, after it has looked at its other events.
    fn come_back(&self, queue: usize) {
        if let Some(event) = self.queue_events.get(queue) {
            // Refused only by an eventfd that is at its top, and so signalled.
            let _ = event.write(1);
        }
    }

    fn come_back_to_all(&self) {
        (0..self.queue_events.len()).for_each(|queue| self.come_back(queue));
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
        &self.queue_sizes
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    fn device_features(&self) -> u64 {
        Features::offered(self.most_pairs).0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&self.config_space(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, features, interrupt } = activation;
        let features = Features(features);
        let controlled = features.has(VIRTIO_NET_F_CTRL_VQ) && self.most_pairs > 1;
        let several = features.has(VIRTIO_NET_F_MQ) && controlled;
        let most = if several { usize::from(self.most_pairs) } else { 1 };
        if !several {
            self.pairs = 1;
        }
        let mut queues: Vec<Option<Queue>> =
            queues.into_iter().map(|queue| Some(queue).filter(QueueT::ready)).collect();
        let mut ring = |index: usize| {
            let queue = queues.get_mut(index).and_then(Option::take);
            let queue = queue.ok_or(ActivateError::QueueNotReady(index))?;
            Ok(Ring::new(queue, memory.clone()))
        };
        let buffers = || Buffers::new(&memory);
        let mut pairs = Vec::with_capacity(most);
        for pair in 0..most {
            let rx = Rx::new(ring(2 * pair)?, buffers(), features);
            let tx = Tx::new(ring(2 * pair + 1)?, buffers(), features);
            pairs.push(Pair { rx, tx });
        }
        // Behind all pairs, or behind the only one that the driver knows of (5.1.2).
        let control = controlled.then_some(2 * most);
        let control = control.map(|at| Ok((at, Control::new(ring(at)?, buffers()))));
        let control = control.transpose()?;
        let offloads = features.tap_offloads();
        for link in &self.links {
            link.backend.set_offloads(offloads).map_err(|source| ActivateError::Host {
                what: "setting the tap's offloads",
                source,
            })?;
        }
        self.active = Some(Active { features, pairs, control, interrupt });
        // Buffers and frames that were there before DRIVER_OK were notified of to nobody.
        self.links.iter_mut().for_each(|link| link.has_frames = true);
        self.come_back_to_all();
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        let active = self.active.as_ref()?;
        let mut positions: Vec<_> = active
            .pairs
            .iter()
            .flat_map(|Pair { rx, tx }| [rx.position(), tx.position()])
            .chain(active.control.as_ref().map(|(_, control)| control.position()))
            .collect();
        // Queues that the driver has not set up are behind those.
        positions.resize(self.queue_sizes.len(), QueuePosition { next_avail: 0, next_used: 0 });
        Some(positions)
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net { mac: self.address, pairs: self.pairs }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Net { mac, pairs } = *state else {
            return Err(RestoreError::OtherDevice);
        };
        if !(1..=self.most_pairs).contains(&pairs) {
            return Err(RestoreError::Registers("more pairs of queues than there are"));
        }
        self.pairs = pairs;
        if !self.mac_given {
            self.address = mac;
        }
        Ok(())
    }

    fn plug(&mut self, plug: Plug) -> Result<(), PlugError> {
        let Plug::Net { wire, mac, rx_rate_limiter, tx_rate_limiter } = plug else {
            return Err(PlugError::OtherDevice);
        };
        if !self.links.is_empty() {
            return Err(PlugError::InUse);
        }
        let mac = mac.map(|mac| mac::choose(Some(mac))).transpose()?;
        let links = links(wire);
        let offloads = self.active.as_ref().map_or(0, |active| active.features.tap_offloads());
        let what = "set the tap's offloads";
        for link in &links {
            let set = link.backend.set_offloads(offloads);
            set.map_err(|source| PlugError::Host { what, source })?;
        }
        if let Some(mac) = mac {
            (self.address, self.mac_given) = (mac, true);
        }
        self.limits = Limits::new(rx_rate_limiter, tx_rate_limiter);
        self.links = links;
        // The device thread is to look after them; and there may be frames.
        self.come_back_to_all();
        Ok(())
    }

    fn unplug(&mut self) -> Result<(), PlugError> {
        if self.links.is_empty() {
            return Err(PlugError::Empty);
        }
        let was_down = self.links.iter().any(|link| link.told_down);
        // They are open as long as the device thread looks after them: their numbers must not become
        // another's.
        let links = std::mem::take(&mut self.links).into_iter();
        self.retired.extend(links.filter(|link| link.watched).map(|link| link.backend));
        let (rx, tx) = self.slot_limits;
        self.limits = Limits::new(rx, tx);
        if was_down {
            self.configuration_changed();
        }
        // What waited for room goes where nothing waits.
        self.come_back_to_all();
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.pairs = 1;
    }
}

impl Limits {
    fn new(rx: RateLimiter, tx: RateLimiter) -> Self {
        Self { rx: Limiter::new(rx), tx: Limiter::new(tx) }
    }
}

/// Ways for frames that nobody has looked at yet.
fn links(wire: Wire) -> Vec<Link> {
    let link = |backend| Link { backend, watched: false, has_frames: true, told_down: false };
    wire.into_backends().into_iter().map(link).collect()
}
