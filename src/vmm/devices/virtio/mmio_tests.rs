//! Drives the transport as a driver would, and as none should.

use event_manager::{EventOps, Events, MutEventSubscriber};
use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::*;

const MEMORY: usize = 1 << 20;

#[derive(Debug, Default)]
struct Fake {
    events: Vec<EventFd>,
    activations: Vec<(u64, Vec<(bool, u16)>)>,
    positions: Option<Vec<QueuePosition>>,
    resets: usize,
    refuse: bool,
    written: Vec<(u64, Vec<u8>)>,
}

impl MutEventSubscriber for Fake {
    fn process(&mut self, _: Events, _: &mut EventOps) {}
    fn init(&mut self, _: &mut EventOps) {}
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        42
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 64]
    }
    fn queue_events(&self) -> &[EventFd] {
        &self.events
    }
    fn device_features(&self) -> u64 {
        1 << 5
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::super::read_config_space(&[1, 2, 3, 4], offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.written.push((offset, data.to_vec()));
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.refuse {
            return Err(ActivateError::QueueNotReady(0));
        }
        let queues = activation.queues.iter().map(|q| (q.ready(), q.size())).collect();
        self.activations.push((activation.features, queues));
        self.positions = Some(activation.queues.iter().map(QueuePosition::of).collect());
        Ok(())
    }
    fn positions(&self) -> Option<Vec<QueuePosition>> {
        self.positions.clone()
    }
    fn save(&self) -> DeviceState {
        DeviceState::Rng
    }
    fn restore(&mut self, _: &DeviceState) -> Result<(), RestoreError> {
        Ok(())
    }
    fn reset(&mut self) {
        self.resets += 1;
    }
}

fn transport() -> (MmioTransport, Arc<Mutex<Fake>>, Arc<Interrupt>) {
    let events = (0..2).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap()).collect();
    let device = Arc::new(Mutex::new(Fake { events, ..Default::default() }));
    let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let interrupt = Arc::new(Interrupt::new(line));
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    (MmioTransport::new(device.clone(), interrupt.clone(), memory), device, interrupt)
}

fn get(transport: &MmioTransport, offset: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn put(transport: &mut MmioTransport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// Everything up to the queues.
fn negotiate(transport: &mut MmioTransport) {
    put(transport, 0x070, ACKNOWLEDGE);
    put(transport, 0x070, ACKNOWLEDGE | DRIVER);
    put(transport, 0x024, 1);
    put(transport, 0x020, 1);
    put(transport, 0x024, 0);
    put(transport, 0x020, 1 << 29 | 1 << 5);
    put(transport, 0x070, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(get(transport, 0x070), ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

fn set_up(transport: &mut MmioTransport, size: u32, rings: [u32; 3]) {
    put(transport, 0x030, 0);
    put(transport, 0x038, size);
    for (register, address) in [0x080, 0x090, 0x0a0].into_iter().zip(rings) {
        put(transport, register, address);
        put(transport, register + 4, 0);
    }
    put(transport, 0x044, 1);
}

const ALL_SET: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

#[test]
fn identity_is_as_the_specification_says() {
    let (transport, ..) = transport();
    assert_eq!(get(&transport, 0), u32::from_le_bytes(*b"virt"));
    assert_eq!((get(&transport, 4), get(&transport, 8)), (2, 42));
    assert_eq!(get(&transport, 0x034), 256);
}

#[test]
fn a_driver_by_the_book_gets_a_running_device() {
    let (mut transport, device, interrupt) = transport();
    negotiate(&mut transport);
    set_up(&mut transport, 128, [0x1000, 0x2000, 0x3000]);
    put(&mut transport, 0x070, ALL_SET);
    assert_eq!(get(&transport, 0x070), ALL_SET);
    let features = 1 << VIRTIO_F_VERSION_1 | 1 << 29 | 1 << 5;
    assert_eq!(lock(&device).activations, [(features, vec![(true, 128), (false, 64)])]);
    assert_eq!(transport.refused_writes(), 0);

    interrupt.used_buffers().unwrap();
    assert_eq!(get(&transport, 0x060), 1);
    put(&mut transport, 0x064, 1);
    assert_eq!(get(&transport, 0x060), 0);
    put(&mut transport, QUEUE_NOTIFY, 1);
    assert_eq!(lock(&device).events[1].read().unwrap(), 1);

    put(&mut transport, 0x070, 0);
    assert_eq!((get(&transport, 0x070), lock(&device).resets), (0, 1));
    put(&mut transport, 0x030, 0);
    assert_eq!(get(&transport, 0x044), 0);
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    for (low, high) in [(1 << 6, 1), (0, 0), (0, 3)] {
        let (mut transport, ..) = transport();
        put(&mut transport, 0x070, ACKNOWLEDGE);
        put(&mut transport, 0x070, ACKNOWLEDGE | DRIVER);
        put(&mut transport, 0x020, low);
        put(&mut transport, 0x024, 1);
        put(&mut transport, 0x020, high);
        put(&mut transport, 0x070, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(get(&transport, 0x070), ACKNOWLEDGE | DRIVER);
    }
}

#[test]
fn no_state_can_be_left_out() {
    let (mut transport, device, _) = transport();
    for status in [DRIVER, DRIVER_OK, FEATURES_OK, ALL_SET, ACKNOWLEDGE | DRIVER_OK] {
        put(&mut transport, 0x070, status);
        assert_eq!(get(&transport, 0x070), 0);
    }
    put(&mut transport, 0x070, ACKNOWLEDGE);
    put(&mut transport, 0x070, DRIVER);
    assert_eq!(get(&transport, 0x070), ACKNOWLEDGE);
    assert!(lock(&device).activations.is_empty());
    assert_eq!(transport.refused_writes(), 6);
}

#[test]
fn queues_cannot_be_changed_under_a_running_device() {
    let (mut transport, ..) = transport();
    negotiate(&mut transport);
    set_up(&mut transport, 128, [0x1000, 0x2000, 0x3000]);
    put(&mut transport, 0x070, ALL_SET);
    put(&mut transport, 0x044, 0);
    put(&mut transport, 0x080, 0x8000);
    assert_eq!((get(&transport, 0x044), transport.refused_writes()), (1, 2));
}

#[test]
fn wrong_queues_leave_the_device_needing_a_reset() {
    let end = u32::try_from(MEMORY).unwrap();
    let fine = [0x1000, 0x2000, 0x3000];
    let cases = [
        (0, fine),
        (3, fine),
        (512, fine),
        (65536, fine),
        (128, [0x1001, 0x2000, 0x3000]),
        (128, [0x1000, 0x2001, 0x3000]),
        (128, [0x1000, 0x2000, 0x3002]),
        (128, [0, 0x2000, 0x3000]),
        (128, [end, 0x2000, 0x3000]),
        (128, [end - 16, 0x2000, 0x3000]),
        (128, [0x1000, end - 4, 0x3000]),
        (128, [0x1000, 0x2000, u32::MAX - 3]),
    ];
    for (size, rings) in cases {
        let (mut transport, device, interrupt) = transport();
        negotiate(&mut transport);
        set_up(&mut transport, size, rings);
        put(&mut transport, 0x070, ALL_SET);
        assert_eq!(get(&transport, 0x070), ALL_SET | NEEDS_RESET, "{size} {rings:x?}");
        assert_eq!(interrupt.line().read().unwrap(), 1);
        assert!(lock(&device).activations.is_empty());
        put(&mut transport, 0x070, 0);
        assert_eq!(get(&transport, 0x070), 0);
    }
}

#[test]
fn a_ring_may_end_where_memory_ends() {
    let (mut transport, device, _) = transport();
    negotiate(&mut transport);
    let end = u32::try_from(MEMORY).unwrap();
    set_up(&mut transport, 128, [end - 128 * 16, 0x2000, 0x3000]);
    put(&mut transport, 0x070, ALL_SET);
    assert_eq!(lock(&device).activations.len(), 1);
}

#[test]
fn a_device_that_refuses_needs_a_reset() {
    let (mut transport, device, _) = transport();
    lock(&device).refuse = true;
    negotiate(&mut transport);
    put(&mut transport, 0x070, ALL_SET);
    assert_eq!(get(&transport, 0x070) & NEEDS_RESET, NEEDS_RESET);
}

#[test]
fn configuration_space_takes_every_width() {
    let (mut transport, device, interrupt) = transport();
    let mut bytes = [0xff; 8];
    transport.read(0x102, &mut bytes);
    assert_eq!(bytes, [3, 4, 0, 0, 0, 0, 0, 0]);
    transport.write(0x101, &[9]);
    assert!(lock(&device).written.is_empty());
    put(&mut transport, 0x070, ACKNOWLEDGE);
    put(&mut transport, 0x070, ACKNOWLEDGE | DRIVER);
    transport.write(0x101, &[9]);
    assert_eq!(lock(&device).written, [(1, vec![9])]);
    let before = get(&transport, 0x0fc);
    interrupt.configuration_changed().unwrap();
    assert_ne!(get(&transport, 0x0fc), before);
    assert_eq!(get(&transport, 0x060), 2);
}

#[test]
fn registers_are_read_by_words_only() {
    let (transport, ..) = transport();
    let mut data = [0xff; 2];
    transport.read(0, &mut data);
    assert_eq!(data, [0, 0]);
}

/// A device at work, its driver's side acknowledged up to `status`, some way into its queues.
fn saved() -> TransportState {
    let (mut transport, device, interrupt) = transport();
    negotiate(&mut transport);
    set_up(&mut transport, 128, [0x1000, 0x2000, 0x3000]);
    put(&mut transport, 0x070, ALL_SET);
    let position = QueuePosition { next_avail: 65_535, next_used: 7 };
    lock(&device).positions = Some(vec![position, QueuePosition::of(&Queue::new(64).unwrap())]);
    interrupt.used_buffers().unwrap();
    let device = lock(&device);
    transport.save(&*device)
}

#[test]
fn a_restored_device_goes_on_where_the_saved_one_was() {
    let state = saved();
    let (mut transport, device, interrupt) = transport();
    transport.restore(&state).unwrap();
    assert_eq!(get(&transport, 0x070), ALL_SET);
    assert_eq!(lock(&device).activations.len(), 1);
    let positions = lock(&device).positions.clone().unwrap();
    assert_eq!(positions[0], QueuePosition { next_avail: 65_535, next_used: 7 });
    assert_eq!(interrupt.line().read().unwrap(), 1, "what was not acknowledged comes again");
    assert_eq!(get(&transport, 0x060), 1);
    let again = transport.save(&*lock(&device));
    assert_eq!(format!("{again:?}"), format!("{state:?}"));
}

#[test]
fn states_that_no_driver_brings_about_are_refused() {
    let refused: [fn(&mut TransportState); 6] = [
        |state| state.device_type = 1,
        |state| state.queues.truncate(1),
        |state| state.accepted |= 1 << 6,
        |state| state.status = DRIVER_OK,
        |state| state.positions = Some(Vec::new()),
        |state| state.queues[0].available = u64::MAX - 1,
    ];
    for spoil in refused {
        let mut state = saved();
        spoil(&mut state);
        let (mut transport, device, _) = transport();
        assert!(transport.restore(&state).is_err());
        assert!(lock(&device).activations.is_empty());
    }
}

fn register() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..0x120, (0u64..0x48).prop_map(|r| r * 4), Just(0x070), Just(0x020)]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0u32..256, (0u32..256).prop_map(|p| p << 12)]
}

proptest! {
    #[test]
    fn no_writes_can_do_harm(
        writes in prop::collection::vec((register(), value(), 0usize..9), 0..200)
    ) {
        let (mut transport, device, _) = transport();
        for (offset, value, width) in writes {
            let bytes = u64::from(value).to_le_bytes();
            if width < 3 {
                transport.write(offset, &bytes[..width]);
            } else {
                transport.write(offset, &bytes[..4]);
            }
            let mut data = [0; 8];
            transport.read(offset, &mut data[..width.min(8)]);
            let status = get(&transport, 0x070);
            if status & DRIVER_OK != 0 {
                prop_assert_eq!(status & ALL_SET, ALL_SET);
                prop_assert!(transport.features_are_fine());
            }
        }
        for (features, queues) in &lock(&device).activations {
            prop_assert!(features & (1 << VIRTIO_F_VERSION_1) != 0);
            prop_assert!(queues.iter().all(|(_, size)| size.is_power_of_two()));
        }
    }
}
