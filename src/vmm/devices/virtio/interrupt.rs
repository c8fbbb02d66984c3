//! A device's interrupt: the status register (virtio 1.2, 4.2.2) and the irqfd behind it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// An interrupt's registers, for snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptState {
    status: u32,
    generation: u32,
    needs_reset: bool,
}

/// Raises the interrupt of one device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    generation: AtomicU32,
    needs_reset: AtomicBool,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that writes to `line` (registered with KVM as an irqfd).
    pub fn new(line: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            line,
        }
    }

    /// Its registers.
    pub fn save(&self) -> InterruptState {
        InterruptState {
            status: self.status(),
            generation: self.generation(),
            needs_reset: self.waits_for_reset(),
        }
    }

    /// Sets its registers, and raises the line anew where the driver has not acknowledged all: an
    /// edge that was under way when the machine was paused is lost, and one too many does nothing.
    pub fn restore(&self, state: InterruptState) -> io::Result<()> {
        self.generation.store(state.generation, Ordering::Release);
        self.needs_reset.store(state.needs_reset, Ordering::Release);
        self.status.store(state.status, Ordering::Release);
        if state.status == 0 { Ok(()) } else { self.line.write(1) }
    }

    /// The device has used buffers.
    pub fn used_buffers(&self) -> io::Result<()> {
        self.raise(USED_BUFFER)
    }

    /// The device's configuration space has changed.
    pub fn configuration_changed(&self) -> io::Result<()> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIGURATION_CHANGE)
    }

    /// The device cannot go on until the driver resets it (virtio 1.2, 2.1.2): for a driver that
    /// has broken a ring.
    pub fn needs_reset(&self) -> io::Result<()> {
        self.needs_reset.store(true, Ordering::Release);
        self.raise(CONFIGURATION_CHANGE)
    }

    /// Whether the device waits for a reset.
    pub fn waits_for_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The driver has reset the device.
    pub fn reset(&self) {
        self.needs_reset.store(false, Ordering::Release);
        self.status.store(0, Ordering::Release);
    }

    /// ConfigGeneration register.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    /// InterruptACK register.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// The eventfd that raises the line.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    fn raise(&self, bits: u32) -> io::Result<()> {
        self.status.fetch_or(bits, Ordering::AcqRel);
        self.line.write(1)
    }
}
