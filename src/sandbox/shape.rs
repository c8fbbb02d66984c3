//! The size of a sandbox's machine: what a template is made for.

use std::path::PathBuf;

use crate::monitor::group::Size;
use crate::vmm::config::MAX_VCPUS;

/// Guest memory where no limit is given, in bytes.
const DEFAULT_MEMORY: u64 = 512 << 20;

/// What the guest's kernel and agent take beside a container's own limit, in bytes, with one part
/// in 32 of the limit on top for the kernel's page descriptors and tables.
const GUEST_OVERHEAD: u64 = 64 << 20;

/// How many things can be plugged into a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Network interfaces.
    pub nets: u8,
    /// Disks.
    pub disks: u8,
}

impl Slots {
    /// Of one container: its image, its writable layer, and its network; and two disks of those that share
    /// its network. A slot that stays empty takes pages of the template's, which all sandboxes share.
    pub const CONTAINER: Self = Self { nets: 2, disks: 4 };

    /// Of a pod, whose containers come and go.
    pub const POD: Self = Self { nets: 4, disks: 8 };
}

/// A machine's size, what it boots, and what can be plugged into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Another kernel than ampoule's.
    pub kernel: Option<PathBuf>,
    /// Places for what comes later.
    pub slots: Slots,
}

impl Shape {
    /// The same machine for a pod.
    #[must_use]
    pub fn for_pod(self) -> Self {
        Self { slots: Slots::POD, ..self }
    }

    /// What a monitor of a sandbox of this shape is limited to.
    pub fn size(&self) -> Size {
        Size { memory_mib: self.memory_mib, vcpus: self.vcpus }
    }

    /// For a container with these limits: CPUs, fractions allowed, and bytes of memory. CPUs are
    /// rounded up; beside the container's memory there is room for the guest's own.
    pub fn new(cpus: Option<f64>, memory: Option<u64>, kernel: Option<PathBuf>) -> Self {
        let most = f64::from(MAX_VCPUS);
        // In range by the clamp; a NaN becomes 1.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let vcpus = cpus.map_or(1, |cpus| cpus.ceil().clamp(1.0, most) as u8);
        let bytes = memory
            .map_or(DEFAULT_MEMORY, |limit| limit.saturating_add(limit / 32 + GUEST_OVERHEAD));
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let memory_mib = mib.checked_next_multiple_of(step(mib)).unwrap_or(mib);
        Self { vcpus, memory_mib, kernel, slots: Slots::CONTAINER }
    }
}

/// Machines have sizes in steps, of an eighth and more: each size has a template of its own, and there
/// are to be few.
fn step(mib: u32) -> u32 {
    // Beyond the last power there is one step more.
    (mib.checked_next_power_of_two().unwrap_or(1 << 31) / 16).max(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_cpu_takes_a_whole_vcpu() {
        let with = |cpus| Shape::new(Some(cpus), None, None).vcpus;
        assert_eq!([with(0.1), with(1.0), with(1.5), with(3.0), with(99.0)], [1, 1, 2, 3, 32]);
        assert_eq!(Shape::new(None, None, None).vcpus, 1);
    }

    #[test]
    fn the_machine_holds_the_limit_and_the_guest() {
        let with = |memory| Shape::new(None, memory, None).memory_mib;
        assert_eq!(with(None), 512);
        // 64, 2 and 64, in steps of 32.
        assert_eq!(with(Some(64 << 20)), 160);
        // 1000, 31.25 and 64, in steps of 128.
        assert_eq!(with(Some(1000 << 20)), 1152);
        assert_eq!(with(Some(u64::MAX)), u32::MAX);
    }
}
