//! The device: its one queue of writable buffers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::Metrics;
use crate::vmm::devices::virtio::{
    ActivateError, Activation, Counts, DeviceState, Interrupt, Kind, QueuePosition, RestoreError,
    VirtioDevice,
};

const QUEUE_SIZE: u16 = 64;

/// Most bytes for one request; a driver that wants more asks again.
const REQUEST_MAX: usize = 4096;

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    events: [EventFd; 1],
    active: Option<Active>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Active {
    memory: GuestMemoryMmap,
    queue: Queue,
    interrupt: Arc<Interrupt>,
    buffer: Box<[u8; REQUEST_MAX]>,
}

/// A request that cannot be answered with bytes.
enum Unanswerable {
    Malformed,
    Host,
}

impl Rng {
    /// A device that waits for its driver.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { events: [event], active: None, metrics: Arc::default() })
    }

    /// What the device counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    pub(super) fn kick(&self) -> &EventFd {
        let [kick] = &self.events;
        kick
    }

    /// Answers what is in the queue; at most a queue full, then other devices have their turn.
    pub(super) fn serve(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        match active.serve(&self.metrics) {
            Ok(false) => {}
            Ok(true) => {
                // Readable already if it cannot be written.
                let _ = self.kick().write(1);
            }
            Err(error) => {
                log::warn!("entropy device stopped: {error}");
                self.metrics.broken_rings.fetch_add(1, Relaxed);
                if let Err(error) = active.interrupt.needs_reset() {
                    log::warn!("entropy device: cannot interrupt: {error}");
                }
                self.active = None;
            }
        }
    }
}

impl Active {
    /// Whether requests are left.
    fn serve(&mut self, metrics: &Metrics) -> Result<bool, virtio_queue::Error> {
        self.queue.disable_notification(&self.memory)?;
        for _ in 0..self.queue.size() {
            let Some(chain) = self.queue.iter(&self.memory)?.next() else {
                break;
            };
            let head = chain.head_index();
            let written = match fill(&self.memory, chain, &mut self.buffer) {
                Ok(written) => written,
                Err(Unanswerable::Malformed) => {
                    metrics.malformed.fetch_add(1, Relaxed);
                    0
                }
                Err(Unanswerable::Host) => {
                    metrics.host_failures.fetch_add(1, Relaxed);
                    0
                }
            };
            metrics.requests.fetch_add(1, Relaxed);
            metrics.bytes.fetch_add(written.into(), Relaxed);
            self.queue.add_used(&self.memory, head, written)?;
        }
        if self.queue.needs_notification(&self.memory)?
            && let Err(error) = self.interrupt.used_buffers()
        {
            log::warn!("entropy device: cannot interrupt: {error}");
        }
        self.queue.enable_notification(&self.memory)
    }
}

/// Fills a request's buffers, up to [`REQUEST_MAX`] bytes, and says how many were written.
fn fill(
    memory: &GuestMemoryMmap,
    chain: DescriptorChain<&GuestMemoryMmap>,
    buffer: &mut [u8; REQUEST_MAX],
) -> Result<u32, Unanswerable> {
    let mut written: u32 = 0;
    let mut room: &mut [u8] = buffer;
    for descriptor in chain {
        if !descriptor.is_write_only() {
            return Err(Unanswerable::Malformed);
        }
        let wanted = usize::try_from(descriptor.len()).unwrap_or(usize::MAX).min(room.len());
        let Some((bytes, rest)) = room.split_at_mut_checked(wanted) else {
            break;
        };
        random(bytes).map_err(|_| Unanswerable::Host)?;
        memory.write_slice(bytes, descriptor.addr()).map_err(|_| Unanswerable::Malformed)?;
        // No more than REQUEST_MAX in all.
        written += u32::try_from(bytes.len()).unwrap_or(0);
        room = rest;
        if room.is_empty() {
            break;
        }
    }
    Ok(written)
}

/// Fills `bytes` from the host's kernel, whose generator is ready when a machine can be made.
fn random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length are those of a mutable slice.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => bytes = bytes.get_mut(got..).unwrap_or_default(),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

impl VirtioDevice for Rng {
    fn counts(&self) -> Option<Counts> {
        Some(Counts::of(Kind::Rng, &*self.metrics))
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn queue_events(&self) -> &[EventFd] {
        &self.events
    }

    fn device_features(&self) -> u64 {
        0
    }

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let queue = queues
            .into_iter()
            .next()
            .filter(|queue| queue.ready())
            .ok_or(ActivateError::QueueNotReady(0))?;
        self.active = Some(Active { memory, queue, interrupt, buffer: Box::new([0; REQUEST_MAX]) });
        // A request that was there before was notified of to nobody. Readable already if it cannot
        // be written.
        let _ = self.kick().write(1);
        Ok(())
    }

    fn positions(&self) -> Option<Vec<QueuePosition>> {
        self.active.as_ref().map(|active| vec![QueuePosition::of(&active.queue)])
    }

    fn save(&self) -> DeviceState {
        DeviceState::Rng
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        if *state == DeviceState::Rng { Ok(()) } else { Err(RestoreError::OtherDevice) }
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::GuestAddress;

    const WRITABLE: u16 = 2;
    const NEXT: u16 = 1;

    fn served(descriptors: &[(u64, u32, u16)]) -> (Rng, GuestMemoryMmap, u32) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let chain: Vec<_> = descriptors
            .iter()
            .zip(1u16..)
            .map(|((address, len, flags), next)| {
                RawDescriptor::from(Descriptor::new(*address, *len, *flags, next))
            })
            .collect();
        mock.build_desc_chain(&chain).unwrap();
        let queue: Queue = mock.create_queue().unwrap();
        let mut rng = Rng::new().unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(Interrupt::new(line));
        let activation =
            Activation { memory: memory.clone(), queues: vec![queue], features: 0, interrupt };
        rng.activate(activation).unwrap();
        rng.serve();
        let used = mock.used().ring().ref_at(0).unwrap().load().len();
        (rng, memory, used)
    }

    #[test]
    fn buffers_are_filled() {
        let (rng, memory, used) = served(&[(0x8000, 32, WRITABLE | NEXT), (0x9000, 32, WRITABLE)]);
        assert_eq!(used, 64);
        assert_eq!(rng.metrics().bytes.load(Relaxed), 64);
        for address in [0x8000, 0x9000] {
            let mut bytes = [0; 32];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            assert_ne!(bytes, [0; 32]);
        }
    }

    #[test]
    fn a_request_is_bounded() {
        assert_eq!(served(&[(0x8000, u32::MAX, WRITABLE)]).2, 4096);
    }

    #[test]
    fn what_is_no_request_gets_nothing() {
        for descriptor in [(0x8000, 32, 0), (1 << 20, 32, WRITABLE), (u64::MAX, 32, WRITABLE)] {
            let (rng, _, used) = served(&[descriptor]);
            assert_eq!(used, 0);
            assert_eq!(rng.metrics().malformed.load(Relaxed), 1);
        }
    }

    #[test]
    fn a_lying_ring_stops_the_device() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        mock.avail().idx().store(1000);
        let mut rng = Rng::new().unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(Interrupt::new(line));
        let queues = vec![mock.create_queue().unwrap()];
        let activation = Activation {
            memory: memory.clone(),
            queues,
            features: 0,
            interrupt: interrupt.clone(),
        };
        rng.activate(activation).unwrap();
        rng.serve();
        assert!(interrupt.waits_for_reset());
        assert!(rng.active.is_none());
        rng.serve();
        assert_eq!(rng.metrics().broken_rings.load(Relaxed), 1);
    }

    #[test]
    fn the_queue_is_needed() {
        let mut rng = Rng::new().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Arc::new(Interrupt::new(line));
        let queues = vec![Queue::new(QUEUE_SIZE).unwrap()];
        let activation = Activation { memory, queues, features: 0, interrupt };
        assert!(matches!(rng.activate(activation), Err(ActivateError::QueueNotReady(0))));
    }
}
