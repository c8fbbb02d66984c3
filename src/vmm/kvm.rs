//! The KVM side of a machine: the VM, its memory slots and its interrupt controllers.

use kvm_bindings::{
    KVM_CAP_PRE_FAULT_MEMORY, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVMIO, kvm_clock_data, kvm_irqchip, kvm_pre_fault_memory,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

use crate::vmm::arch::x86_64::cpuid::Cpuid;
use crate::vmm::arch::x86_64::layout::KVM_TSS;
use crate::vmm::host::Host;

// Not among kvm-ioctls' calls.
ioctl_iowr_nr!(KVM_PRE_FAULT_MEMORY, KVMIO, 0xd5, kvm_pre_fault_memory);

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// KVM refused something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// there is no usable KVM
    #[error("cannot open {DEVICE}{}", hint(.0))]
    Open(#[source] errno::Error),
    /// an ioctl failed
    #[error("KVM cannot {what}")]
    Refused {
        /// what was asked of it
        what: &'static str,
        /// why
        #[source]
        source: errno::Error,
    },
}

fn hint(error: &errno::Error) -> &'static str {
    match error.errno() {
        libc::EACCES | libc::EPERM => " (is this user in the group kvm?)",
        libc::ENOENT => {
            " (no KVM here: modprobe kvm_intel or kvm_amd; `ampoule doctor` tells more)"
        }
        _ => "",
    }
}

impl KvmError {
    /// For `map_err`: `what` KVM was asked for.
    pub fn refused(what: &'static str) -> impl FnOnce(errno::Error) -> Self {
        move |source| Self::Refused { what, source }
    }
}

/// A VM with memory and interrupt controllers, without vCPUs.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    kvm: Kvm,
    cpuid: Cpuid,
    // The slots point into it: it is unmapped after the VM is gone.
    _memory: GuestMemoryMmap,
}

impl Vm {
    /// A VM for `vcpus` processors with `memory`.
    pub fn new(host: &Host, memory: &GuestMemoryMmap, vcpus: u8) -> Result<Self, KvmError> {
        let kvm = host.kvm()?;
        let fd = kvm.create_vm().map_err(KvmError::refused("create a virtual machine"))?;
        set_memory(&fd, memory)?;
        fd.set_tss_address(KVM_TSS).map_err(KvmError::refused("place the task state segment"))?;
        // Before the vCPUs, so that each gets its local APIC. No PIT: its kernel thread and the
        // guest's calibration against it cost time, and the TSC deadline timer serves instead.
        fd.create_irq_chip().map_err(KvmError::refused("create the interrupt controllers"))?;
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::refused("say what CPUID it supports"))?;
        let tsc_deadline = fd.check_extension(Cap::TscDeadlineTimer);
        let cpuid = Cpuid::new(supported.as_slice(), vcpus, tsc_deadline);
        Ok(Self { fd, kvm, cpuid, _memory: memory.clone() })
    }

    /// The VM itself, for its vCPUs.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// MSRs that are part of a vCPU's state on this host.
    pub fn msrs(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.kvm.get_msr_index_list();
        Ok(list.map_err(KvmError::refused("list the MSRs"))?.as_slice().to_vec())
    }

    /// Its state beside memory and vCPUs. None of its vCPUs may run.
    pub fn save(&self) -> Result<VmState, KvmError> {
        let mut irqchips = IRQCHIPS.map(|chip_id| kvm_irqchip { chip_id, ..Default::default() });
        for chip in &mut irqchips {
            self.fd.get_irqchip(chip).map_err(KvmError::refused("read an interrupt controller"))?;
        }
        let clock = self.fd.get_clock().map_err(KvmError::refused("read the guest's clock"))?;
        Ok(VmState { irqchips, clock_ns: clock.clock })
    }

    /// Brings a VM whose vCPUs have not run yet into this state.
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        for (chip, chip_id) in state.irqchips.iter().zip(IRQCHIPS) {
            // Which of the three it is decides how the rest is read.
            let chip = kvm_irqchip { chip_id, ..*chip };
            self.fd.set_irqchip(&chip).map_err(KvmError::refused("set an interrupt controller"))?;
        }
        // Without KVM_CLOCK_REALTIME: the guest's monotonic clock goes on from where it stood.
        let clock = kvm_clock_data { clock: state.clock_ns, ..Default::default() };
        self.fd.set_clock(&clock).map_err(KvmError::refused("set the guest's clock"))
    }

    /// Maps these ranges (address and length) of guest memory as if a vCPU that does not run yet had
    /// read them, where KVM can (Linux 6.11). It is no more than the guest would do.
    pub fn map_beforehand(&self, vcpu: &VcpuFd, places: &[(u64, u64)]) {
        if self.fd.check_extension_raw(KVM_CAP_PRE_FAULT_MEMORY.into()) <= 0 {
            return;
        }
        for &(gpa, size) in places {
            let mut range = kvm_pre_fault_memory { gpa, size, ..Default::default() };
            while range.size > 0 {
                // SAFETY: the descriptor is a vCPU's, and `range` what this ioctl reads and writes.
                let done = unsafe { ioctl_with_mut_ref(vcpu, KVM_PRE_FAULT_MEMORY(), &mut range) };
                if done != 0 && errno::Error::last().errno() != libc::EINTR {
                    return;
                }
            }
        }
    }

    /// What its vCPUs say to CPUID.
    pub fn cpuid(&self) -> &Cpuid {
        &self.cpuid
    }

    /// Makes a write to `line` an edge on interrupt line `irq`.
    pub fn bind_interrupt(&self, line: &EventFd, irq: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(line, irq).map_err(KvmError::refused("bind an interrupt line"))
    }

    /// Makes the guest's 32-bit write of `value` to `address` a write to `event`, without a vCPU
    /// leaving the kernel.
    pub fn bind_notification(
        &self,
        event: &EventFd,
        address: u64,
        value: u32,
    ) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(KvmError::refused("bind a queue's notification"))
    }
}

const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// A VM's state beside memory and vCPUs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VmState {
    irqchips: [kvm_irqchip; 3],
    /// The guest's kvmclock, in nanoseconds.
    clock_ns: u64,
}

fn set_memory(fd: &VmFd, memory: &GuestMemoryMmap) -> Result<(), KvmError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for as long as `memory` or a clone of it lives, and `Vm`
        // keeps one; regions of a `GuestMemoryMmap` do not overlap.
        unsafe { fd.set_user_memory_region(slot) }
            .map_err(KvmError::refused("take the guest's memory"))?;
    }
    Ok(())
}
