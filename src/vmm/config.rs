//! What a machine is made of, before anything of it exists.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::vmm::arch::x86_64::layout::MAX_VIRTIO_DEVICES;
use crate::vmm::devices::virtio::net::Wire;
use crate::vmm::host::{Host, HostPorts, Opened};
use crate::vmm::rate::RateLimiter;

/// Most vCPUs of a machine: what one IO-APIC and 8-bit APIC ids serve with room to spare.
pub const MAX_VCPUS: u8 = 32;

/// Least guest memory in MiB: a kernel, an initramfs and their unpacking.
pub const MIN_MEMORY_MIB: u32 = 16;

/// Most guest memory in MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;

/// Where the serial console of the guest goes. Its last output is always kept for
/// `Running::console`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SerialMode {
    /// Kept in memory only; the kernel is told not to look for the port.
    #[default]
    Off,
    /// The process's standard input and output.
    Stdio,
}

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Whether there is a balloon, by which the guest gives free memory back.
    #[serde(default)]
    pub balloon: bool,
    /// File systems of the host's.
    #[serde(default)]
    pub shares: Vec<FsConfig>,
    /// What was opened beforehand.
    #[serde(skip)]
    pub host: Host,
}

/// A block device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Backing file or block device; without one this is an empty slot, which reads as zeros until a
    /// restored machine has something plugged into it.
    pub path: Option<PathBuf>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number that the guest sees, at most 20 bytes.
    pub serial: Option<String>,
    /// How much it does in a time: reads, writes and all else together.
    #[serde(default)]
    pub rate_limiter: RateLimiter,
    /// Its file.
    #[serde(skip)]
    pub opened: Opened<File>,
}

/// A network device.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NetConfig {
    /// Where its frames go; without that this is an empty slot, a cable that leads nowhere.
    pub backend: Option<NetBackend>,
    /// The guest's hardware address; without one it gets a random one.
    pub mac: Option<[u8; 6]>,
    /// How many frames the guest gets in a time.
    #[serde(default)]
    pub rx_rate_limiter: RateLimiter,
    /// How many frames it sends in a time.
    #[serde(default)]
    pub tx_rate_limiter: RateLimiter,
    /// What the frames go to.
    #[serde(skip)]
    pub opened: Opened<Wire>,
}

/// Where a network device's frames go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetBackend {
    /// To a tap interface.
    Tap {
        /// Its name.
        name: String,
        /// How many queues of it are opened, if it has so many: as many as the device has.
        queues: u8,
    },
    /// To who listens at a Unix stream socket, each behind its length.
    Stream(PathBuf),
}

/// A vsock device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VsockConfig {
    /// The guest's context id, 3 or above.
    pub guest_cid: u64,
    /// Unix socket of the host side.
    pub uds_path: PathBuf,
    /// That socket, where somebody listens at the path already.
    #[serde(skip)]
    pub listener: Option<Arc<UnixListener>>,
    /// Who connects to ports of the host in this process's place.
    #[serde(skip)]
    pub ports: Option<Arc<dyn HostPorts>>,
}

/// A file system device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsConfig {
    /// The name by which the guest mounts it, 1 to 36 bytes. A restored guest goes on with the one
    /// that it knows.
    pub tag: String,
    /// What the guest finds there; without it this is an empty slot, which cannot be mounted until a
    /// restored machine has something plugged into it.
    pub export: Option<Export>,
    /// The top of that.
    #[serde(skip)]
    pub opened: Opened<OwnedFd>,
}

/// What the guest finds in a file system. Mount points below a directory are part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Export {
    /// A directory's contents.
    Directory(Share),
    /// A read-only directory with an entry for each of these: directories, or single files.
    Tree(BTreeMap<String, Share>),
    /// A directory that is handed over, with entries that come and go while the guest runs.
    Given,
}

/// A directory or a file of the host that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A configuration that no machine can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// too few or too many vCPUs
    #[error("{0} vCPUs: a machine has 1 to {MAX_VCPUS}")]
    Vcpus(u8),
    /// too little or too much memory
    #[error("{0} MiB of memory: a machine has {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}")]
    Memory(u32),
    /// more devices than interrupt lines
    #[error("{0} virtio devices: a machine has at most {MAX_VIRTIO_DEVICES}")]
    Devices(usize),
}

impl MachineConfig {
    /// Checks every number against its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        match self.virtio_devices() {
            n if n > MAX_VIRTIO_DEVICES => Err(ConfigError::Devices(n)),
            _ => Ok(()),
        }
    }

    /// How many virtio devices the machine has.
    pub fn virtio_devices(&self) -> usize {
        let single = [self.vsock.is_some(), self.rng, self.balloon].map(usize::from);
        let many = [self.disks.len(), self.nets.len(), self.shares.len()];
        many.into_iter().chain(single).fold(0, usize::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MachineConfig {
        MachineConfig {
            kernel: "vmlinux".into(),
            initrd: None,
            cmdline: String::new(),
            vcpus: 1,
            memory_mib: 128,
            serial: SerialMode::Off,
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            rng: false,
            balloon: false,
            shares: Vec::new(),
            host: Host::default(),
        }
    }

    #[test]
    fn ranges_are_checked_at_both_ends() {
        let with = |change: fn(&mut MachineConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate()
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|c| c.vcpus = MAX_VCPUS), Ok(()));
        assert_eq!(with(|c| c.vcpus = 0), Err(ConfigError::Vcpus(0)));
        assert_eq!(with(|c| c.vcpus = 33), Err(ConfigError::Vcpus(33)));
        assert_eq!(with(|c| c.memory_mib = 15), Err(ConfigError::Memory(15)));
        assert_eq!(with(|c| c.memory_mib = u32::MAX), Err(ConfigError::Memory(u32::MAX)));
    }

    #[test]
    fn every_device_needs_a_line() {
        let disk = DiskConfig { path: Some("d".into()), read_only: true, ..DiskConfig::default() };
        let mut config = config();
        config.rng = true;
        config.balloon = true;
        config.shares = vec![FsConfig { tag: "t".into(), export: None, opened: Opened::default() }];
        config.disks = vec![disk.clone(); MAX_VIRTIO_DEVICES - 3];
        assert_eq!(config.validate(), Ok(()));
        config.disks.push(disk);
        assert_eq!(config.validate(), Err(ConfigError::Devices(MAX_VIRTIO_DEVICES + 1)));
    }
}
