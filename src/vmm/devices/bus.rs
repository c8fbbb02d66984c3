//! Who answers the guest's port and memory-mapped accesses.
//!
//! What nobody answers reads as all ones, as on a PC's bus, and is ignored when written.

use std::sync::{Arc, Mutex};

use super::virtio::mmio::MmioTransport;
use super::{i8042, serial};
use crate::vmm::arch::x86_64::layout::{VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::vmm::console::Event;
use crate::vmm::exit::lock;

/// What an access means for the whole machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// The guest restarts.
    Reset,
    /// The guest switches itself off.
    PowerOff,
    /// The guest has ended a line of meaning on its serial port.
    Said(Event),
}

/// The devices by their addresses.
#[derive(Debug)]
pub struct Bus {
    serial: Arc<Mutex<serial::Port>>,
    virtio: Vec<Mutex<MmioTransport>>,
}

impl Bus {
    /// A bus with these devices, the virtio devices one behind the other from [`VIRTIO_MMIO`] on.
    pub fn new(serial: Arc<Mutex<serial::Port>>, virtio: Vec<MmioTransport>) -> Self {
        Self { serial, virtio: virtio.into_iter().map(Mutex::new).collect() }
    }

    /// The serial port.
    pub fn serial(&self) -> &Mutex<serial::Port> {
        &self.serial
    }

    /// The registers of the virtio devices, in their order.
    pub fn virtio(&self) -> &[Mutex<MmioTransport>] {
        &self.virtio
    }

    /// The guest reads `data.len()` bytes from `port`: one access, or one for each byte of a
    /// string instruction.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match (port, serial::offset(port)) {
            (_, Some(offset)) => {
                let mut serial = lock(&self.serial);
                for byte in data {
                    *byte = serial.read(offset);
                }
            }
            (i8042::DATA | i8042::COMMAND, None) => data.fill(i8042::read(port)),
            _ => data.fill(0xff),
        }
    }

    /// The guest writes `data` to `port`: one access, or one for each byte of a string instruction.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<Effect> {
        if let Some(offset) = serial::offset(port) {
            let mut serial = lock(&self.serial);
            let mut said = None;
            for byte in data {
                said = said.or(serial.write(offset, *byte));
            }
            return said.map(Effect::Said);
        }
        data.iter().any(|byte| i8042::is_reset(port, *byte)).then_some(Effect::Reset)
    }

    /// The guest reads `data.len()` bytes at `address`, where no memory is.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.virtio_at(address) {
            Some((transport, offset)) => lock(transport).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes `data` at `address`, where no memory is.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.virtio_at(address) {
            lock(transport).write(offset, data);
        }
    }

    fn virtio_at(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let from_first = address.checked_sub(VIRTIO_MMIO)?;
        let index = usize::try_from(from_first / VIRTIO_MMIO_SIZE).ok()?;
        Some((self.virtio.get(index)?, from_first % VIRTIO_MMIO_SIZE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::config::SerialMode;

    fn bus() -> (Bus, serial::Console) {
        let (port, console) =
            serial::Port::new(SerialMode::Off, &serial::SerialState::default()).unwrap();
        (Bus::new(Arc::new(Mutex::new(port)), Vec::new()), console)
    }

    #[test]
    fn nobody_answers_with_ones() {
        let (bus, _) = bus();
        let mut data = [0; 4];
        bus.port_read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_read(VIRTIO_MMIO, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.mmio_write(u64::MAX, &data);
        assert_eq!(bus.port_write(0x80, &[0xfe]), None);
    }

    #[test]
    fn the_reset_command_is_an_effect() {
        assert_eq!(bus().0.port_write(0x64, &[0xfe]), Some(Effect::Reset));
    }

    #[test]
    fn serial_output_is_kept_and_understood() {
        let (bus, console) = bus();
        let mut effects = Vec::new();
        for byte in b"hello\r\nreboot: System halted\n" {
            effects.extend(bus.port_write(0x3f8, &[*byte]));
        }
        assert_eq!(effects, [Effect::Said(Event::PoweredOff)]);
        assert_eq!(console.tail(), "hello\r\nreboot: System halted\n");
    }
}
