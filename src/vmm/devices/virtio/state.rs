//! What a snapshot holds of a device beside its transport's registers.

use serde::{Deserialize, Serialize};
use virtio_queue::QueueT;

use super::balloon::Sizes;

/// How far the device is on a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePosition {
    /// Entry of the available ring that it takes next.
    pub next_avail: u16,
    /// Entry of the used ring that it writes next.
    pub next_used: u16,
}

impl QueuePosition {
    /// Where the device is on `queue`.
    pub fn of(queue: &impl QueueT) -> Self {
        Self { next_avail: queue.next_avail(), next_used: queue.next_used() }
    }

    /// Puts the device there.
    pub fn apply(self, queue: &mut impl QueueT) {
        queue.set_next_avail(self.next_avail);
        queue.set_next_used(self.next_used);
    }
}

/// The fields of a device that are neither its transport's nor plugged in anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A disk.
    Block {
        /// Capacity in sectors of 512 bytes that the driver knows.
        sectors: u64,
        /// It is a slot: whatever is plugged into it has that capacity.
        slot: bool,
    },
    /// A network interface.
    Net {
        /// The hardware address that the driver knows.
        mac: [u8; 6],
        /// Pairs of queues that the driver has asked for.
        pairs: u16,
    },
    /// The vsock device.
    Vsock {
        /// The context id that the driver knows.
        guest_cid: u64,
        /// The driver may take a connection for alive that ends here.
        connected: bool,
        /// Port of the host that the next connection gets: ports that were in use may still mean
        /// something to the driver.
        next_port: u32,
    },
    /// The entropy device.
    Rng,
    /// The balloon.
    Balloon(Sizes),
    /// A file system that the driver has not mounted.
    Fs {
        /// The tag that the driver knows.
        tag: String,
    },
}

/// A device that cannot be saved as it is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaveError {
    /// what the guest knows of the host's files are descriptors of this process
    #[error("the guest has mounted the share {tag}: it can be saved only before that")]
    Mounted {
        /// the share
        tag: String,
    },
}

/// A device that cannot go on as it was saved.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// another device than the saved one
    #[error("it is another kind of device than the saved one")]
    OtherDevice,
    /// the driver has agreed on a feature that the new backing has not
    #[error(
        "the guest has agreed on features that what is plugged in does not have ({missing:#x}): \
         a read-only disk in place of a writable one, or the other way round?"
    )]
    Features {
        /// the feature bits
        missing: u64,
    },
    /// the driver knows the disk by its size
    #[error("the disk has {found} sectors, the saved one had {saved}")]
    DiskSize {
        /// sectors of 512 bytes that the driver knows
        saved: u64,
        /// those of what is plugged in
        found: u64,
    },
    /// registers that no driver can have written
    #[error("its registers make no sense: {0}")]
    Registers(&'static str),
    /// its queues, or a resource of the host
    #[error(transparent)]
    Activate(#[from] super::ActivateError),
}
