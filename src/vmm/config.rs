//! What a machine is made of, before anything of it exists.

use std::path::PathBuf;

/// Most vCPUs of a machine: what one IO-APIC and 8-bit APIC ids serve with room to spare.
pub const MAX_VCPUS: u8 = 32;

/// Least guest memory in MiB: a kernel, an initramfs and their unpacking.
pub const MIN_MEMORY_MIB: u32 = 16;

/// Most guest memory in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;

/// Where the serial console of the guest goes. Its last output is always kept for
/// `console_tail`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SerialMode {
    /// Kept in memory only; the kernel is told not to look for the port.
    #[default]
    Off,
    /// The process's standard input and output.
    Stdio,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct MachineConfig {
    /// Kernel: an ELF `vmlinux` or a bzImage.
    pub kernel: PathBuf,
    /// Initial RAM disk, handed over as it is.
    pub initrd: Option<PathBuf>,
    /// The user's part of the kernel command line; what the devices need is appended.
    pub cmdline: String,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// The serial console.
    pub serial: SerialMode,
    /// Block devices, `/dev/vda` first.
    pub disks: Vec<DiskConfig>,
    /// Network devices, `eth0` first.
    pub nets: Vec<NetConfig>,
    /// The vsock device, at most one in a guest.
    pub vsock: Option<VsockConfig>,
    /// Whether there is an entropy device.
    pub rng: bool,
}

/// A block device.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Backing file or block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number that the guest sees, at most 20 bytes.
    pub serial: Option<String>,
}

/// A network device.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Name of the tap interface.
    pub tap: String,
    /// The guest's hardware address; without one the guest makes its own.
    pub mac: Option<[u8; 6]>,
}

/// A vsock device.
#[derive(Debug, Clone)]
pub struct VsockConfig {
    /// The guest's context id, 3 or above.
    pub guest_cid: u64,
    /// Unix socket of the host side.
    pub uds_path: PathBuf,
}
