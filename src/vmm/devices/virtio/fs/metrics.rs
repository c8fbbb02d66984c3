//! What a file system device counts.

use serde::{Serialize, Serializer};

use crate::vmm::devices::virtio::counter::Counter;

/// Counts since the device was made; serializing takes a snapshot.
#[derive(Debug, Default, Serialize)]
pub struct FsMetrics {
    /// messages that were answered, with success or an error
    pub requests: Counter,
    /// messages by their opcodes (those of FUSE; 0 for all that are beyond), without zeros
    pub opcodes: Opcodes,
    /// bytes that the guest read from files
    pub read_bytes: Counter,
    /// bytes that the guest wrote to files
    pub written_bytes: Counter,
    /// operations whose arguments no correct driver would have sent
    pub refused: Counter,
    /// operations refused because the guest makes the host hold too many files
    pub over_budget: Counter,
    /// chains and messages that are no request at all
    pub malformed: Counter,
    /// times the driver broke a ring, which stops the device until it is reset
    pub stopped: Counter,
}

/// Opcodes that are counted each for itself: more than the newest kernel has.
const OPCODES: usize = 64;

/// A count for each opcode.
#[derive(Debug)]
pub struct Opcodes([Counter; OPCODES]);

impl Default for Opcodes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Opcodes {
    /// Counts a message.
    pub fn add(&self, opcode: u32) {
        if let Some(counter) = self.of(opcode) {
            counter.add(1);
        }
    }

    /// Messages with an opcode.
    pub fn get(&self, opcode: u32) -> u64 {
        self.of(opcode).map_or(0, Counter::get)
    }

    fn of(&self, opcode: u32) -> Option<&Counter> {
        let own = usize::try_from(opcode).ok().and_then(|opcode| self.0.get(opcode));
        own.or_else(|| self.0.first())
    }
}

impl Serialize for Opcodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.0.iter().map(Counter::get).enumerate();
        serializer.collect_map(counts.filter(|(_, count)| *count > 0))
    }
}
