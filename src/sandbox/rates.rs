//! How much a container's network and disks may do in a time.

use serde::{Deserialize, Serialize};

use crate::vmm::rate::RateLimiter;

/// Limits of a network interface. The default limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetRates {
    /// Frames to the container.
    pub rx: RateLimiter,
    /// Frames from the container.
    pub tx: RateLimiter,
}

impl NetRates {
    /// No limits.
    pub const NONE: Self = Self { rx: RateLimiter::NONE, tx: RateLimiter::NONE };
}

/// Limits of a container. The default limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Each of its network interfaces.
    pub network: NetRates,
    /// Each of its disks, reads and writes together.
    pub disk: RateLimiter,
}
