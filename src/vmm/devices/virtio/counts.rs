//! What devices count, as it is told to others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::balloon::BalloonMetrics;
use super::block::BlockMetrics;
use super::fs::FsMetrics;
use super::net::NetMetrics;
use super::rng::Metrics as RngMetrics;
use super::vsock::VsockMetrics;

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A disk.
    Block,
    /// A network interface.
    Net,
    /// Sockets between host and guest.
    Vsock,
    /// Directories of the host.
    Fs,
    /// Random bytes.
    Rng,
    /// Memory that is given back.
    Balloon,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Block, Self::Net, Self::Vsock, Self::Fs, Self::Rng, Self::Balloon];

    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Net => "net",
            Self::Vsock => "vsock",
            Self::Fs => "fs",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
        }
    }

    /// Everything that such a device counts: names that others give can be compared with it.
    pub fn counted(self) -> BTreeMap<String, u64> {
        match self {
            Self::Block => Counts::of(self, &BlockMetrics::default()),
            Self::Net => Counts::of(self, &NetMetrics::default()),
            Self::Vsock => Counts::of(self, &VsockMetrics::default()),
            Self::Fs => Counts::of(self, &FsMetrics::default()),
            Self::Rng => Counts::of(self, &RngMetrics::default()),
            Self::Balloon => Counts::of(self, &BalloonMetrics::default()),
        }
        .counts
    }
}

/// The counts of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// What it is.
    pub kind: Kind,
    /// Names and counts.
    pub counts: BTreeMap<String, u64>,
}

impl Counts {
    /// Those of a device's metrics: its plain counters.
    pub fn of(kind: Kind, metrics: &impl Serialize) -> Self {
        let value = serde_json::to_value(metrics).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten();
        let counts = fields.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        Self { kind, counts: counts.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_counts_something_and_malformed_chains_among_it() {
        for kind in Kind::ALL {
            let counted = kind.counted();
            assert!(counted.contains_key("malformed"), "{kind:?}: {counted:?}");
            let fits = |name: &String| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(counted.keys().all(fits), "{kind:?}: {counted:?}");
        }
    }
}
