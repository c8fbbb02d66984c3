//! What a snapshot holds beside the guest's memory.

use serde::{Deserialize, Serialize};

use super::SnapshotError;
use super::memory::MemoryState;
use crate::vmm::arch::x86_64::cpuid::Cpuid;
use crate::vmm::arch::x86_64::state::VcpuState;
use crate::vmm::config::MachineConfig;
use crate::vmm::devices::serial::SerialState;
use crate::vmm::devices::virtio::mmio::TransportState;
use crate::vmm::host::Host;
use crate::vmm::kvm::VmState;

/// A machine that does not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// What it is made of.
    pub config: MachineConfig,
    /// What its vCPUs say to CPUID.
    pub cpuid: Cpuid,
    /// Interrupt controllers and clock.
    pub vm: VmState,
    /// The vCPUs, by index.
    pub vcpus: Vec<VcpuState>,
    /// The serial port.
    pub serial: SerialState,
    /// The virtio devices, in the configuration's order.
    pub devices: Vec<TransportState>,
    /// Where in the memory's file there is something.
    pub memory: MemoryState,
}

/// What a restored machine has in place of what the saved one had.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Plugs {
    /// Disks, the first one first; those behind keep their files.
    pub disks: Vec<crate::vmm::config::DiskConfig>,
    /// Network devices, the first one first; those behind keep their taps.
    pub nets: Vec<crate::vmm::config::NetConfig>,
    /// File systems, the first one first; those behind keep what they show.
    pub shares: Vec<crate::vmm::config::FsConfig>,
    /// The vsock device's socket.
    pub vsock: Option<crate::vmm::config::VsockConfig>,
    /// Where the serial console goes.
    pub serial: crate::vmm::config::SerialMode,
    /// What was opened beforehand.
    #[serde(skip)]
    pub host: Host,
}

impl MachineState {
    /// The configuration of the restored machine.
    ///
    /// # Errors
    /// More is plugged in than the machine has places for, or its parts do not belong together.
    pub fn with(&self, plugs: Plugs) -> Result<MachineConfig, SnapshotError> {
        let mut config = self.config.clone();
        config.serial = plugs.serial;
        config.host = plugs.host;
        replace(&mut config.disks, plugs.disks, "disks")?;
        replace(&mut config.nets, plugs.nets, "network devices")?;
        replace(&mut config.shares, plugs.shares, "shares")?;
        match (&mut config.vsock, plugs.vsock) {
            (_, None) => {}
            (Some(vsock), Some(plug)) => *vsock = plug,
            (None, Some(_)) => return Err(SnapshotError::Shape("it has no vsock device".into())),
        }
        config.validate().map_err(|error| SnapshotError::Shape(error.to_string()))?;
        if usize::from(config.vcpus) != self.vcpus.len() {
            let (config, state) = (config.vcpus, self.vcpus.len());
            return Err(SnapshotError::Shape(format!("{config} vCPUs, and the state of {state}")));
        }
        if config.virtio_devices() != self.devices.len() {
            let (config, state) = (config.virtio_devices(), self.devices.len());
            return Err(SnapshotError::Shape(format!(
                "{config} devices, and the state of {state}"
            )));
        }
        Ok(config)
    }

    /// Refuses a snapshot of another kind of processor than `host`'s.
    pub fn check_cpu(&self, host: &Cpuid) -> Result<(), SnapshotError> {
        if self.cpuid == *host {
            return Ok(());
        }
        let leaves: Vec<String> =
            self.cpuid.differences(host).iter().map(|leaf| format!("{leaf:#x}")).collect();
        Err(SnapshotError::OtherCpu {
            saved: self.cpuid.brand(),
            host: host.brand(),
            leaves: leaves.join(", "),
        })
    }
}

fn replace<T>(places: &mut [T], plugs: Vec<T>, what: &str) -> Result<(), SnapshotError> {
    if plugs.len() > places.len() {
        let (has, given) = (places.len(), plugs.len());
        return Err(SnapshotError::Shape(format!("it has {has} {what}, {given} were given")));
    }
    for (place, plug) in places.iter_mut().zip(plugs) {
        *place = plug;
    }
    Ok(())
}

#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::vmm::config::SerialMode;

    /// The state of a machine without vCPUs and devices.
    pub fn state() -> MachineState {
        MachineState {
            config: MachineConfig {
                kernel: "k".into(),
                initrd: None,
                cmdline: String::new(),
                vcpus: 1,
                memory_mib: 32,
                serial: SerialMode::Off,
                disks: Vec::new(),
                nets: Vec::new(),
                vsock: None,
                rng: false,
                balloon: false,
                shares: Vec::new(),
                host: Host::default(),
            },
            cpuid: Cpuid::new(&[], 1, true),
            vm: VmState::default(),
            vcpus: Vec::new(),
            serial: SerialState::default(),
            devices: Vec::new(),
            memory: MemoryState::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::config::{DiskConfig, FsConfig, VsockConfig};
    use crate::vmm::host::Opened;

    #[test]
    fn nothing_is_plugged_where_there_is_no_place() {
        let state = testing::state();
        let disk = DiskConfig { path: Some("d".into()), read_only: true, ..DiskConfig::default() };
        let vsock = VsockConfig { guest_cid: 3, uds_path: "v".into(), listener: None, ports: None };
        let share = FsConfig { tag: "t".into(), export: None, opened: Opened::default() };
        for plugs in [
            Plugs { shares: vec![share], ..Plugs::default() },
            Plugs { disks: vec![disk], ..Plugs::default() },
            Plugs { vsock: Some(vsock), ..Plugs::default() },
        ] {
            assert!(matches!(state.with(plugs), Err(SnapshotError::Shape(_))));
        }
        // And a state without its vCPU is none.
        assert!(matches!(state.with(Plugs::default()), Err(SnapshotError::Shape(_))));
    }

    #[test]
    fn another_processor_is_named_with_what_differs() {
        let state = testing::state();
        let leaf = kvm_bindings::kvm_cpuid_entry2 { function: 7, ebx: 1, ..Default::default() };
        state.check_cpu(&Cpuid::new(&[], 1, true)).unwrap();
        let error = state.check_cpu(&Cpuid::new(&[leaf], 1, true)).unwrap_err();
        assert!(error.to_string().contains("0x7"), "{error}");
    }
}
