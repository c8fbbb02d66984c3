//! A number that only grows: what device metrics are made of.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

/// A count that device threads add to and anybody reads.
///
/// Relaxed: counters are looked at, never waited for, and each stands for itself.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n` and returns what the count was before.
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed)
    }

    /// Adds the length of a buffer.
    pub fn add_bytes(&self, n: usize) {
        // A usize is at most 64 bits wide on the one architecture there is.
        self.add(n as u64);
    }

    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}
