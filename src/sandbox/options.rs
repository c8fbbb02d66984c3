//! What a user asks of a new sandbox and its container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::vmm::config::MAX_VCPUS;

/// Guest memory where no limit is given, in bytes.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// What the guest's kernel and agent take beside a container's own limit, in bytes, with one part
/// in 32 of the limit on top for the kernel's page descriptors and tables.
const GUEST_OVERHEAD: u64 = 64 << 20;

/// Least memory limit that is accepted, in bytes (docker's).
pub const LEAST_MEMORY: u64 = 6 << 20;

/// Options of `ampoule run`, in the words of `docker run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Image as the user names it.
    pub image: String,
    /// Arguments that replace the image's `Cmd`.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint` (and drops its `Cmd`); empty for none.
    pub entrypoint: Option<String>,
    /// `K=V` over the image's environment.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User, as in an image's `User`.
    pub user: Option<String>,
    /// Host name; the beginning of the id by default.
    pub hostname: Option<String>,
    /// Name; a random one by default.
    pub name: Option<String>,
    /// CPUs, fractions allowed.
    pub cpus: Option<f64>,
    /// Memory limit of the container in bytes.
    pub memory: Option<u64>,
    /// Another kernel than ampoule's.
    pub kernel: Option<PathBuf>,
    /// Keep stdin open.
    pub interactive: bool,
    /// Give the program a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal at the start.
    pub terminal_size: Option<(u16, u16)>,
    /// Remove the container's record when it ends.
    pub remove: bool,
    /// Boot the guest's kernel, rather than restore a template.
    pub cold: bool,
}

impl Options {
    /// vCPUs of the machine: the CPUs asked for, rounded up.
    pub fn vcpus(&self) -> u8 {
        let most = f64::from(MAX_VCPUS);
        // In range by the clamp; a NaN becomes 1.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.cpus.map_or(1, |cpus| cpus.ceil().clamp(1.0, most) as u8)
    }

    /// Memory of the machine in MiB: room for the container's limit and the guest beside it.
    pub fn machine_mib(&self) -> u32 {
        let bytes = self
            .memory
            .map_or(DEFAULT_MEMORY, |limit| limit.saturating_add(limit / 32 + GUEST_OVERHEAD));
        u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_cpu_takes_a_whole_vcpu() {
        let with = |cpus| Options { cpus: Some(cpus), ..Options::default() }.vcpus();
        assert_eq!([with(0.1), with(1.0), with(1.5), with(3.0), with(99.0)], [1, 1, 2, 3, 32]);
        assert_eq!(Options::default().vcpus(), 1);
    }

    #[test]
    fn the_machine_holds_the_limit_and_the_guest() {
        let with = |memory| Options { memory, ..Options::default() }.machine_mib();
        assert_eq!(with(None), 512);
        assert_eq!(with(Some(64 << 20)), 64 + 2 + 64);
        assert_eq!(with(Some(u64::MAX)), u32::MAX);
    }
}
