//! A device's interrupt: the status register (virtio 1.2, 4.2.2) and the irqfd behind it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// Raises the interrupt of one device.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that writes to `line` (registered with KVM as an irqfd).
    pub fn new(line: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            line,
        }
    }

    /// The device has used buffers.
    pub fn used_buffers(&self) -> io::Result<()> {
        self.raise(USED_BUFFER)
    }

    /// The device's configuration space, or its need of a reset, has changed.
    pub fn configuration_changed(&self) -> io::Result<()> {
        self.raise(CONFIGURATION_CHANGE)
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
