use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::device::{
    DEFLATE_ON_OOM, DEFLATE_QUEUE, INFLATE_QUEUE, QUEUES, REPORTING, REPORTING_QUEUE,
};
use super::pages::RANGES_PER_TURN;
use super::*;
use crate::vmm::devices::virtio::testing::{
    Buffer, DATA, Driver, MEMORY, interrupt, memory, raised, readable, writable,
};
use crate::vmm::devices::virtio::{
    ActivateError, Activation, DeviceState, Interrupt, VirtioDevice,
};

const PAGE: usize = 4096;
const LIST: u64 = DATA;
/// Pages from here on hold [`FILL`].
const FIRST: u32 = 0x100;
const FILL: u8 = 0x5a;

/// A device with its driver; what its queues do not take of guest memory is filled.
struct Machine {
    balloon: Balloon,
    memory: GuestMemoryMmap,
    drivers: [Driver; QUEUES],
    interrupt: Arc<Interrupt>,
}

fn machine() -> Machine {
    machine_in(memory())
}

fn machine_in(memory: GuestMemoryMmap) -> Machine {
    let drivers = [0, 0x4000, 0x8000].map(|base| Driver::new(&memory, base, 64));
    let mut machine =
        Machine { balloon: Balloon::new().unwrap(), memory, drivers, interrupt: interrupt() };
    machine.activate(DEFLATE_ON_OOM | REPORTING).unwrap();
    let rest = MEMORY - FIRST as usize * PAGE;
    machine.memory.write_slice(&vec![FILL; rest], address(FIRST)).unwrap();
    machine
}

fn address(frame: u32) -> GuestAddress {
    GuestAddress(u64::from(frame) << 12)
}

impl Machine {
    fn activate(&mut self, features: u64) -> Result<(), ActivateError> {
        self.balloon.activate(Activation {
            memory: self.memory.clone(),
            queues: self.drivers.iter().map(|driver| driver.queue(true)).collect(),
            features,
            interrupt: Arc::clone(&self.interrupt),
        })
    }

    fn request(&mut self, queue: usize, buffers: &[Buffer]) {
        let head = self.drivers[queue].offer(buffers);
        self.balloon.process_queue(queue);
        assert_eq!(self.drivers[queue].used(), [(head, 0)]);
    }

    /// Sends a list of frames.
    fn frames(&mut self, queue: usize, frames: &[u32]) {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
        self.drivers[queue].write(LIST, &bytes);
        self.request(queue, &[readable(LIST, u32::try_from(bytes.len()).unwrap())]);
    }

    /// The filled pages that are not any more: all others must hold what they held.
    fn gone(&self) -> Vec<u32> {
        let frames = FIRST..u32::try_from(MEMORY / PAGE).unwrap();
        let page = |frame: &u32| {
            let mut page = [0; PAGE];
            self.memory.read_slice(&mut page, address(*frame)).unwrap();
            page
        };
        frames
            .filter(|frame| match page(frame) {
                page if page == [FILL; PAGE] => false,
                page if page == [0; PAGE] => true,
                _ => panic!("page {frame:#x} is neither whole nor gone"),
            })
            .collect()
    }

    fn refused(&self) -> u64 {
        self.balloon.metrics().refused.get()
    }
}

/// Whether a kick waits in this queue's eventfd.
fn kicked(event: &EventFd) -> bool {
    event.read().is_ok()
}

#[test]
fn an_inflated_page_is_gone_and_its_neighbours_are_not() {
    let mut m = machine();
    m.frames(INFLATE_QUEUE, &[0x203, 0x202, 0x180, 0x205, 0x202]);
    assert_eq!(m.gone(), [0x180, 0x202, 0x203, 0x205]);
    let metrics = m.balloon.metrics();
    assert_eq!((metrics.inflated_bytes.get(), metrics.released_bytes.get()), (4 << 12, 4 << 12));
    assert_eq!(m.refused(), 0);
    assert_eq!(serde_json::to_value(&*metrics).unwrap()["released_bytes"], 4 << 12);
}

#[test]
fn the_hosts_memory_is_smaller_afterwards() {
    let mut m = machine();
    let resident = |m: &Machine| {
        let host = m.memory.get_host_address(address(FIRST)).unwrap();
        let mut pages = vec![0u8; 512];
        // SAFETY: the range is mapped, and there is a byte for each of its pages.
        let done = unsafe { libc::mincore(host.cast(), 512 * PAGE, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    };
    assert_eq!(resident(&m), 512);
    m.request(REPORTING_QUEUE, &[writable(u64::from(FIRST) << 12, 500 << 12)]);
    assert_eq!(resident(&m), 12);
}

#[test]
fn a_list_may_be_in_pieces_and_long() {
    let mut m = machine();
    let frames: Vec<u32> = (0..700).map(|n| FIRST + n).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    m.drivers[INFLATE_QUEUE].write(LIST, &bytes);
    m.request(INFLATE_QUEUE, &[readable(LIST, 3), readable(LIST + 3, 2797)]);
    assert_eq!(m.gone(), frames);
}

#[test]
fn deflated_pages_are_counted_and_left_alone() {
    let mut m = machine();
    m.frames(DEFLATE_QUEUE, &[0x180, 0x181, u32::MAX]);
    assert_eq!(m.gone(), [0; 0]);
    let metrics = m.balloon.metrics();
    assert_eq!((metrics.deflated_bytes.get(), metrics.released_bytes.get()), (3 << 12, 0));
}

#[test]
fn reported_ranges_are_gone() {
    let mut m = machine();
    m.request(REPORTING_QUEUE, &[writable(0x18_0000, 0x2000), writable(0x20_0000, 0x1000)]);
    assert_eq!(m.gone(), [0x180, 0x181, 0x200]);
    let metrics = m.balloon.metrics();
    assert_eq!((metrics.reported_bytes.get(), metrics.released_bytes.get()), (3 << 12, 3 << 12));
}

#[test]
fn frames_that_the_guest_does_not_have_are_refused() {
    let mut m = machine();
    let last = u32::try_from(MEMORY / PAGE).unwrap() - 1;
    for (n, frames) in [
        &[last + 1][..],
        &[last, last + 1],
        &[u32::MAX],
        &[u32::MAX - 1, u32::MAX],
        &[0x10_0000],
        &[0x180, u32::MAX],
    ]
    .iter()
    .enumerate()
    {
        m.frames(INFLATE_QUEUE, frames);
        assert_eq!(m.refused(), n as u64 + 1, "{frames:x?}");
    }
    // Not even what was good beside them.
    assert_eq!(m.gone(), [0; 0]);
    m.frames(INFLATE_QUEUE, &[last]);
    assert_eq!(m.gone(), [last]);
}

#[test]
fn a_run_may_end_with_a_region_and_not_cross_into_a_hole() {
    let half = MEMORY / 2;
    let ranges = [(GuestAddress(0), half), (GuestAddress(half as u64), half)];
    let mut m = machine_in(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    let border = u32::try_from(half / PAGE).unwrap();
    m.frames(INFLATE_QUEUE, &[border - 1, border]);
    assert_eq!(m.gone(), [border - 1, border]);

    let far = GuestAddress(1 << 32);
    let ranges = [(GuestAddress(0), MEMORY), (far, PAGE)];
    let mut m = machine_in(GuestMemoryMmap::from_ranges(&ranges).unwrap());
    m.memory.write_slice(&[FILL; PAGE], far).unwrap();
    m.frames(INFLATE_QUEUE, &[0x10_0000, 0x10_0001]);
    assert_eq!((m.refused(), m.memory.read_obj::<u8>(far).unwrap()), (1, FILL));
    m.frames(INFLATE_QUEUE, &[0x10_0000]);
    assert_eq!((m.refused(), m.memory.read_obj::<u8>(far).unwrap()), (1, 0));
}

#[test]
fn lists_that_are_none_are_refused() {
    let mut m = machine();
    for (n, len) in [1, 2, 3, 5, 4097, 4100, 0x30_0000].into_iter().enumerate() {
        for queue in [INFLATE_QUEUE, DEFLATE_QUEUE] {
            m.request(queue, &[readable(LIST, len)]);
        }
        assert_eq!(m.refused(), 2 * (n as u64 + 1), "{len}");
    }
    assert_eq!(m.gone(), [0; 0]);
}

#[test]
fn parts_of_pages_are_refused() {
    let mut m = machine();
    for (n, (at, len)) in
        [(0x18_0001, 0x1000), (0x18_0000, 0xfff), (0x18_0000, 0x1001), (0x18_0800, 0x800)]
            .into_iter()
            .enumerate()
    {
        m.request(REPORTING_QUEUE, &[writable(0x20_0000, 0x1000), writable(at, len)]);
        assert_eq!(m.refused(), n as u64 + 1);
    }
    assert_eq!(m.gone(), [0; 0]);
}

#[test]
fn chains_that_are_no_requests_are_counted() {
    let mut m = machine();
    m.request(INFLATE_QUEUE, &[writable(LIST, 4)]);
    m.request(DEFLATE_QUEUE, &[writable(LIST, 4)]);
    m.request(REPORTING_QUEUE, &[readable(0x18_0000, 0x1000)]);
    m.request(REPORTING_QUEUE, &[writable(MEMORY as u64, 0x1000)]);
    m.request(REPORTING_QUEUE, &[writable(MEMORY as u64 - 0x1000, 0x2000)]);
    m.request(REPORTING_QUEUE, &[writable(u64::MAX - 0xfff, 0x1000)]);
    m.request(REPORTING_QUEUE, &[writable(0x18_0000, 0)]);
    assert_eq!(m.balloon.metrics().malformed.get(), 7);
    assert_eq!(m.gone(), [0; 0]);
}

#[test]
fn others_have_their_turn_between_long_lists() {
    let mut m = machine();
    let [inflate, ..] = &m.balloon.queue_events;
    assert!(kicked(inflate), "activating looks at the queue");
    // No two side by side: a range each.
    let frames: Vec<u8> = (0..256u32).flat_map(|n| (FIRST + 2 * n).to_le_bytes()).collect();
    m.drivers[INFLATE_QUEUE].write(LIST, &frames);
    let full = RANGES_PER_TURN / 256;
    for _ in 0..=full {
        m.drivers[INFLATE_QUEUE].offer(&[readable(LIST, 1024)]);
    }
    m.balloon.process_queue(INFLATE_QUEUE);
    assert_eq!(m.drivers[INFLATE_QUEUE].used().len(), full);
    assert!(kicked(&m.balloon.queue_events[INFLATE_QUEUE]));
    m.balloon.process_queue(INFLATE_QUEUE);
    assert_eq!(m.drivers[INFLATE_QUEUE].used().len(), 1);
    assert!(!kicked(&m.balloon.queue_events[INFLATE_QUEUE]));
}

#[test]
fn a_driver_that_breaks_a_ring_needs_a_reset() {
    let mut m = machine();
    m.drivers[REPORTING_QUEUE].set_available(1000);
    m.balloon.process_queue(REPORTING_QUEUE);
    assert!(m.interrupt.waits_for_reset());
    assert_eq!(m.balloon.metrics().stopped.get(), 1);
    // The other queues are not worked on either.
    m.drivers[DEFLATE_QUEUE].offer(&[readable(LIST, 4)]);
    m.balloon.process_queue(DEFLATE_QUEUE);
    assert_eq!(m.drivers[DEFLATE_QUEUE].used(), []);
    m.balloon.reset();
    m.interrupt.reset();
    m.drivers[REPORTING_QUEUE].set_available(0);
    m.activate(REPORTING).unwrap();
    m.balloon.process_queue(DEFLATE_QUEUE);
    assert_eq!(m.drivers[DEFLATE_QUEUE].used().len(), 1);
}

#[test]
fn the_reporting_queue_is_needed_only_where_it_was_negotiated() {
    let activate = |queues: usize, features| {
        let mut m = machine();
        m.balloon.reset();
        let mut list: Vec<_> = m.drivers.iter().map(|driver| driver.queue(true)).collect();
        list.iter_mut().skip(queues).for_each(|q| virtio_queue::QueueT::set_ready(q, false));
        let activation = Activation {
            memory: m.memory.clone(),
            queues: list,
            features,
            interrupt: m.interrupt.clone(),
        };
        m.balloon.activate(activation)
    };
    assert!(activate(3, REPORTING).is_ok());
    assert!(activate(2, 0).is_ok());
    assert!(matches!(activate(2, REPORTING), Err(ActivateError::QueueNotReady(2))));
    assert!(matches!(activate(1, 0), Err(ActivateError::QueueNotReady(1))));
}

#[test]
fn reports_without_the_feature_are_not_looked_at() {
    let mut m = machine();
    m.balloon.reset();
    m.activate(DEFLATE_ON_OOM).unwrap();
    m.drivers[REPORTING_QUEUE].offer(&[writable(0x18_0000, 0x1000)]);
    m.balloon.process_queue(REPORTING_QUEUE);
    assert_eq!(m.drivers[REPORTING_QUEUE].used(), []);
    assert_eq!(m.gone(), [0; 0]);
}

#[test]
fn the_hosts_wish_is_told_and_the_drivers_answer_read() {
    let mut m = machine();
    let config = |balloon: &Balloon| {
        let mut space = [0xff; 12];
        balloon.read_config(0, &mut space);
        space
    };
    assert_eq!(config(&m.balloon), [0; 12]);
    let generation = m.interrupt.generation();
    m.balloon.set_target(0x0102_0304);
    assert_eq!((raised(&m.interrupt), m.interrupt.status()), (1, 2));
    assert_ne!(m.interrupt.generation(), generation);
    m.balloon.write_config(4, &7u32.to_le_bytes());
    assert_eq!(config(&m.balloon), [4, 3, 2, 1, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(m.balloon.sizes(), Sizes { target: 0x0102_0304, actual: 7 });

    // Only `actual`, and only whole.
    m.balloon.write_config(0, &[9; 4]);
    m.balloon.write_config(4, &[9; 2]);
    m.balloon.write_config(5, &[9; 4]);
    m.balloon.write_config(u64::MAX, &[9; 8]);
    assert_eq!(m.balloon.sizes(), Sizes { target: 0x0102_0304, actual: 7 });

    m.balloon.reset();
    assert_eq!(m.balloon.sizes(), Sizes { target: 0x0102_0304, actual: 0 });
    m.balloon.set_target(1);
    assert_eq!(raised(&m.interrupt), 0, "nobody listens");
    m.balloon.restore(&DeviceState::Balloon(Sizes { target: 2, actual: 1 })).unwrap();
    assert_eq!(config(&m.balloon)[..8], [2, 0, 0, 0, 1, 0, 0, 0]);
}

proptest! {
    #[test]
    fn any_list_releases_guest_memory_or_nothing(
        frames in prop::collection::vec(prop_oneof![FIRST..0x500u32, any::<u32>()], 1..300)
    ) {
        let mut m = machine();
        m.frames(INFLATE_QUEUE, &frames);
        for frame in m.gone() {
            prop_assert!(frames.contains(&frame));
        }
    }

    #[test]
    fn any_chain_is_answered(
        queue in 0..QUEUES,
        chain in prop::collection::vec(
            (prop_oneof![0x10_0000..0x50_0000u64, any::<u64>()], any::<u32>(), any::<bool>()), 1..9)
    ) {
        let mut m = machine();
        let chain: Vec<_> = chain
            .into_iter()
            .map(|(address, len, writable)| Buffer { address, len, writable })
            .collect();
        m.request(queue, &chain);
    }
}
