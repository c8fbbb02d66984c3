//! From the configuration to the virtio devices, their addresses and their interrupt lines.

use std::io;
use std::sync::{Arc, Mutex};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::virtio::balloon::{Balloon, BalloonError};
use super::virtio::block::{Block, BlockError};
use super::virtio::fs::{Fs, FsError};
use super::virtio::mmio::{MmioTransport, QUEUE_NOTIFY, SharedDevice};
use super::virtio::net::{self, Net, NetError};
use super::virtio::rng::Rng;
use super::virtio::vsock::{Vsock, VsockError};
use super::virtio::{Interrupt, RestoreError};
use crate::vmm::arch::x86_64::layout::{FIRST_IRQ, LAST_IRQ, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::vmm::boot::Announced;
use crate::vmm::config::MachineConfig;
use crate::vmm::exit::lock;
use crate::vmm::kvm::{KvmError, Vm};

/// A device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// a block device
    #[error(transparent)]
    Block(#[from] BlockError),
    /// a network device
    #[error(transparent)]
    Net(#[from] NetError),
    /// a file system device
    #[error(transparent)]
    Fs(#[from] FsError),
    /// the vsock device
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// the entropy device
    #[error("cannot make the entropy device")]
    Rng(#[source] io::Error),
    /// a device does not go on as it was saved
    #[error("device {index} of the snapshot cannot be restored")]
    Restore {
        /// its place among the devices
        index: usize,
        /// why
        #[source]
        source: RestoreError,
    },
    /// the balloon
    #[error(transparent)]
    Balloon(#[from] BalloonError),
    /// an eventfd for an interrupt
    #[error("cannot make an interrupt line")]
    Interrupt(#[source] io::Error),
}

/// The devices in the order in which the guest numbers them.
pub fn make(config: &MachineConfig) -> Result<Vec<SharedDevice>, DeviceError> {
    let mut devices: Vec<SharedDevice> = Vec::with_capacity(config.virtio_devices());
    for disk in &config.disks {
        devices.push(Arc::new(Mutex::new(Block::new(disk)?)));
    }
    for net in &config.nets {
        devices.push(Arc::new(Mutex::new(Net::new(net, net::pairs(config.vcpus))?)));
    }
    if let Some(vsock) = &config.vsock {
        devices.push(Arc::new(Mutex::new(Vsock::new(vsock)?)));
    }
    if config.rng {
        devices.push(Arc::new(Mutex::new(Rng::new().map_err(DeviceError::Rng)?)));
    }
    if config.balloon {
        devices.push(Arc::new(Mutex::new(Balloon::new()?)));
    }
    for share in &config.shares {
        devices.push(Arc::new(Mutex::new(Fs::new(share, &config.host)?)));
    }
    Ok(devices)
}

/// A device's place in the machine.
#[derive(Debug)]
pub struct Slot {
    /// Where the guest finds it.
    pub announced: Announced,
    /// Its registers.
    pub transport: MmioTransport,
    interrupt: Arc<Interrupt>,
}

/// Gives each device registers and an interrupt line, one behind the other.
pub fn attach(
    devices: &[SharedDevice],
    memory: &GuestMemoryMmap,
) -> Result<Vec<Slot>, DeviceError> {
    // No more devices than lines: MachineConfig::validate.
    (0u64..)
        .zip(FIRST_IRQ..=LAST_IRQ)
        .zip(devices)
        .map(|((index, irq), device)| {
            let line = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(DeviceError::Interrupt)?;
            let interrupt = Arc::new(Interrupt::new(line));
            let address = VIRTIO_MMIO + index * VIRTIO_MMIO_SIZE;
            Ok(Slot {
                announced: Announced { address, irq },
                transport: MmioTransport::new(device.clone(), interrupt.clone(), memory.clone()),
                interrupt,
            })
        })
        .collect()
}

impl Slot {
    /// Binds the interrupt line and the queues' notifications to KVM.
    pub fn bind(&self, vm: &Vm, device: &SharedDevice) -> Result<(), KvmError> {
        vm.bind_interrupt(self.interrupt.line(), self.announced.irq)?;
        let notify = self.announced.address + QUEUE_NOTIFY;
        (0u32..)
            .zip(lock(device).queue_events())
            .try_for_each(|(queue, event)| vm.bind_notification(event, notify, queue))
    }
}
