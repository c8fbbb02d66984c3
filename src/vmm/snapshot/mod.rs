//! A machine written down, to go on later, elsewhere, or many times.
//!
//! * [`state`]: everything but the guest's memory
//! * [`format`]: that as bytes, checked before anything is believed
//! * [`memory`]: guest memory as a sparse file, and that file as guest memory
//! * [`touched`]: the pages that a start touches, for those that come after it
//!
//! A snapshot is two files. `state` is small and read whole; `memory` is as long as the guest's
//! memory, with holes where it is zero, and is mapped privately: all machines that are restored from
//! it share its pages until they write to them.

pub mod format;
pub mod memory;
pub mod own_pages;
pub mod state;
pub mod touched;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::vmm::devices::virtio::SaveError;
use format::FormatError;
use memory::MemoryError;
use state::MachineState;
use touched::{Pages, Touched};

/// Largest state that is read, in bytes: 32 vCPUs have 6 KiB each, and a path for every device.
const STATE_LIMIT: u64 = 4 << 20;

/// A snapshot cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// a file of it
    #[error("cannot {what} of the snapshot")]
    File {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// the state
    #[error("the snapshot's state")]
    Format(#[from] FormatError),
    /// the memory
    #[error("the snapshot's memory")]
    Memory(#[from] MemoryError),
    /// a device has state that cannot be written down
    #[error(transparent)]
    Device(#[from] SaveError),
    /// it was made on a processor that is not this host's
    #[error(
        "the snapshot was made on another kind of processor ({saved}; this host has {host}): they \
         differ in CPUID {leaves}"
    )]
    OtherCpu {
        /// the processor of the snapshot
        saved: String,
        /// that of this host
        host: String,
        /// the leaves in which they differ
        leaves: String,
    },
    /// the machine that is to go on is not the one that was saved
    #[error("the snapshot does not fit: {0}")]
    Shape(String),
}

impl SnapshotError {
    fn file(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, source }
    }
}

/// A snapshot, read and checked, but for its memory's contents.
#[derive(Debug)]
pub struct Snapshot {
    /// Everything but the memory.
    pub state: MachineState,
    /// The memory.
    pub memory: File,
    /// What is known of the pages that the guest will touch.
    pub pages: Pages,
}

impl Snapshot {
    /// Reads a snapshot's state and looks whether the memory belongs to it.
    ///
    /// # Errors
    /// It is no snapshot, another version's, damaged, or its memory has another length.
    pub fn read(state: &File, memory: File) -> Result<Self, SnapshotError> {
        let state =
            format::decode(&read_all(state).map_err(SnapshotError::file("read the state"))?)?;
        let len = memory.metadata().map_err(SnapshotError::file("look at the memory"))?.len();
        state.memory.check(state.config.memory_mib, len)?;
        Ok(Self { state, memory, pages: Pages::Unknown })
    }

    /// Reads which pages an earlier guest has touched: a file that does not tell is none.
    pub fn expect(&mut self, touched: &File) {
        let len = u64::from(self.state.config.memory_mib) << 20;
        self.pages = Touched::read(touched, len).map_or(Pages::Unknown, Pages::Known);
    }

    /// Reads all of the memory and compares it with what was written.
    ///
    /// # Errors
    /// It was altered, or written without a checksum.
    pub fn verify_memory(&self) -> Result<(), SnapshotError> {
        Ok(self.state.memory.verify(&self.memory)?)
    }
}

/// A file from its start, wherever others have read to: its descriptor may be shared.
fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len();
    if len > STATE_LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
