//! A guest's side of a virtio device: an input is a program of steps, each a byte and its operands
//! (little endian, zeroes where the input ends):
//!
//! | step | operands | what |
//! | --- | --- | --- |
//! | 0 | offset u16, width u8, value u64 | writes a register |
//! | 1 | offset u16, width u8 | reads a register |
//! | 2 | address u32, length u16, bytes | stores in guest memory |
//! | 3 | queue u8 | kicks a queue |
//! | 4 | | the device thread does all that there is to do |
//! | 5 | features u32, size u8 | resets the device and sets it up, queues at their usual places |
//! | 6 | queue u8, buffers u8, each: address u32, length u32, kind u8 | offers a chain and kicks |
//! | 7 | queue u8, index u16 | sets the available index, to whatever |
//! | 8 | length u16, bytes | the other side acts: a client, a network, see the target |
//! | 9 | patches u8, each: offset u16, byte u8 | saves the device, and restores the altered state |
//!
//! `fuzz/make-seeds` writes such programs.

use std::sync::{Arc, Mutex};

use ampoule::vmm::devices::virtio::mmio::{MmioTransport, SharedDevice, TransportState};
use ampoule::vmm::devices::virtio::{Interrupt, VirtioDevice};
use arbitrary::Unstructured;
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Guest memory: two ranges that touch, a hole, and a third.
const MEMORY: [(GuestAddress, usize); 3] = [
    (GuestAddress(0), 0x10_0000),
    (GuestAddress(0x10_0000), 0x10_0000),
    (GuestAddress(0x30_0000), 0x10_0000),
];

/// Most steps of a program.
const STEPS: usize = 256;

/// Far more turns of the device thread than all that a guest can have asked for takes.
const TURNS: usize = 20_000;

/// Queue N is at `QUEUES + N * QUEUE_BYTES`; what is offered may be anywhere.
const QUEUES: u64 = 0x1000;
const QUEUE_BYTES: u64 = 0x4000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x2800;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;

/// A device and what its driver knows of it.
struct Guest {
    memory: GuestMemoryMmap,
    device: SharedDevice,
    transport: MmioTransport,
    thread: EventManager<Box<dyn MutEventSubscriber>>,
    queues: Vec<Queue>,
}

/// Where a driver is on its queue.
#[derive(Clone, Copy)]
struct Queue {
    size: u16,
    free: u16,
    available: u16,
}

/// The other side of a device.
pub trait Host {
    /// A new device. The last one, if any, is gone.
    fn device(&mut self) -> SharedDevice;

    /// Acts as the input says.
    fn act(&mut self, bytes: &[u8]) {
        let _ = bytes;
    }

    /// The device has come to rest.
    fn rest(&mut self) {}
}

/// Shares a device as the transport takes it.
pub fn shared(device: impl VirtioDevice + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

/// Runs the program of an input.
pub fn run(input: &[u8], host: &mut impl Host) {
    let memory = GuestMemoryMmap::from_ranges(&MEMORY).expect("guest memory");
    let mut guest = Guest::new(host.device(), memory);
    let mut input = Unstructured::new(input);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.arbitrary::<u8>().unwrap_or_default() % 10 {
            0 => guest.write_any(&mut input),
            1 => guest.read_any(&mut input),
            2 => guest.store(&mut input),
            3 => guest.kick(byte(&mut input)),
            4 => {
                guest.settle();
                host.rest();
            }
            5 => guest.start(word(&mut input), byte(&mut input)),
            6 => guest.offer(&mut input),
            7 => guest.set_available(byte(&mut input), half(&mut input)),
            8 => host.act(&sized(&mut input)),
            _ => guest = guest.save_and_restore(host, &mut input),
        }
    }
    guest.settle();
    host.rest();
}

fn byte(input: &mut Unstructured<'_>) -> u8 {
    input.arbitrary().unwrap_or_default()
}

fn half(input: &mut Unstructured<'_>) -> u16 {
    input.arbitrary().unwrap_or_default()
}

fn word(input: &mut Unstructured<'_>) -> u32 {
    input.arbitrary().unwrap_or_default()
}

/// Bytes behind their length, as far as there are so many.
fn sized(input: &mut Unstructured<'_>) -> Vec<u8> {
    let len = usize::from(half(input)).min(input.len());
    input.bytes(len).unwrap_or_default().to_vec()
}

impl Guest {
    fn new(device: SharedDevice, memory: GuestMemoryMmap) -> Self {
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        let transport = MmioTransport::new(device.clone(), Arc::new(interrupt), memory.clone());
        let mut thread =
            EventManager::<Box<dyn MutEventSubscriber>>::new().expect("an event manager");
        thread.add_subscriber(Box::new(device.clone()));
        let sizes = device.lock().expect("the device").queue_sizes().to_vec();
        let queues =
            sizes.iter().map(|size| Queue { size: *size, free: 0, available: 0 }).collect();
        Self { memory, device, transport, thread, queues }
    }

    /// Lets the device thread work until there is nothing to do.
    fn settle(&mut self) {
        for _ in 0..TURNS {
            match self.thread.run_with_timeout(0) {
                Ok(0) => return,
                Ok(_) => {}
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                Err(error) => panic!("the device thread failed: {error:?}"),
            }
        }
        panic!("the device does not come to rest");
    }

    fn write(&mut self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    fn write_any(&mut self, input: &mut Unstructured<'_>) {
        let (register, width) = (half(input), byte(input));
        let value: u64 = input.arbitrary().unwrap_or_default();
        let width = usize::from(width) % 9;
        self.transport.write(register.into(), &value.to_le_bytes()[..width]);
    }

    fn read_any(&mut self, input: &mut Unstructured<'_>) {
        let mut bytes = [0; 16];
        let (register, width) = (half(input), usize::from(byte(input) % 17));
        self.transport.read(register.into(), &mut bytes[..width]);
    }

    fn store(&mut self, input: &mut Unstructured<'_>) {
        let address = word(input);
        let bytes = sized(input);
        // Where there is no memory, the guest's stores go nowhere.
        let _ = self.memory.write_slice(&bytes, GuestAddress(address.into()));
    }

    fn kick(&mut self, queue: u8) {
        self.write(0x050, queue.into());
    }

    fn start(&mut self, features: u32, smaller: u8) {
        let status = |guest: &mut Self, value| guest.write(0x070, value);
        for value in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
            status(self, value);
        }
        let mut offered = [0; 4];
        self.write(0x014, 0);
        self.transport.read(0x010, &mut offered);
        // VIRTIO_F_VERSION_1 is the first of the second word.
        for (word, value) in [(0, features & u32::from_le_bytes(offered)), (1, 1)] {
            self.write(0x024, word);
            self.write(0x020, value);
        }
        status(self, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        let sizes = self.device.lock().expect("the device").queue_sizes().to_vec();
        for (number, most) in (0u32..).zip(sizes) {
            let size = (most >> (smaller % 8)).max(1);
            let base = QUEUES + u64::from(number) * QUEUE_BYTES;
            self.write(0x030, number);
            self.write(0x038, size.into());
            for (register, at) in [(0x080, base), (0x090, base + AVAILABLE), (0x0a0, base + USED)] {
                self.write(register, u32::try_from(at).expect("a low address"));
                self.write(register + 4, 0);
            }
            self.write(0x044, 1);
            let zeroes = vec![0; usize::try_from(QUEUE_BYTES).expect("a small queue")];
            let _ = self.memory.write_slice(&zeroes, GuestAddress(base));
            if let Some(queue) = self.queues.get_mut(number as usize) {
                *queue = Queue { size, free: 0, available: 0 };
            }
        }
        status(self, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn offer(&mut self, input: &mut Unstructured<'_>) {
        let (number, count) = (byte(input), byte(input) % 24 + 1);
        let at = usize::from(number) % self.queues.len();
        let base = QUEUES + at as u64 * QUEUE_BYTES;
        let Queue { size, free, .. } = self.queues[at];
        let mut this = free;
        for left in (0..count).rev() {
            let (address, len, kind) = (word(input), word(input), byte(input));
            let next = (this + 1) % size;
            // Bit 0: to be written; 1: an indirect table; 2: the chain is broken here, or goes on.
            let flags = u16::from((left > 0) ^ (kind & 4 != 0))
                | u16::from(kind & 1) << 1
                | u16::from(kind & 2) << 1;
            let mut descriptor = [0; 16];
            descriptor[..8].copy_from_slice(&u64::from(address).to_le_bytes());
            descriptor[8..12].copy_from_slice(&len.to_le_bytes());
            descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
            descriptor[14..].copy_from_slice(&next.to_le_bytes());
            let place = GuestAddress(base + 16 * u64::from(this));
            let _ = self.memory.write_slice(&descriptor, place);
            this = next;
        }
        let queue = &mut self.queues[at];
        let slot = base + AVAILABLE + 4 + 2 * u64::from(queue.available % size);
        let _ = self.memory.write_slice(&free.to_le_bytes(), GuestAddress(slot));
        queue.free = this;
        let index = queue.available.wrapping_add(1);
        self.set_available(number, index);
        self.kick(number);
    }

    fn set_available(&mut self, number: u8, index: u16) {
        let at = usize::from(number) % self.queues.len();
        self.queues[at].available = index;
        let place = QUEUES + at as u64 * QUEUE_BYTES + AVAILABLE + 2;
        let _ = self.memory.write_slice(&index.to_le_bytes(), GuestAddress(place));
    }

    /// A new device that goes on where this one is: as it was, or as a foreign snapshot might say.
    fn save_and_restore(mut self, host: &mut impl Host, input: &mut Unstructured<'_>) -> Self {
        self.settle();
        let savable = self.device.lock().expect("the device").check_savable().is_ok();
        if !savable {
            return self;
        }
        let state = self.transport.save(&*self.device.lock().expect("the device"));
        let mut bytes = postcard::to_stdvec(&state).expect("a state");
        let patches = byte(input) % 16;
        for _ in 0..patches {
            let (offset, value) = (half(input), byte(input));
            let len = bytes.len();
            bytes[usize::from(offset) % len] = value;
        }
        let Ok(state) = postcard::from_bytes::<TransportState>(&bytes) else { return self };
        let Self { memory, device, transport, thread, queues } = self;
        drop((device, transport, thread));
        let mut guest = Self::new(host.device(), memory);
        let restored = guest.transport.restore(&state);
        assert!(restored.is_ok() || patches > 0, "its own state is refused: {restored:?}");
        guest.queues = queues;
        guest
    }
}
