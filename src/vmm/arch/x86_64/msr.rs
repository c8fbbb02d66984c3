//! Model-specific registers that differ from KVM's reset values when a vCPU starts.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// Intel SDM volume 4: bit 0 enables fast string operations.
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// Intel SDM volume 3, 12.11.2.1: bit 11 enables MTRRs, the low byte is the default type.
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const WRITE_BACK: u64 = 6;

/// A boot MSR could not be set.
#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    /// KVM_SET_MSRS failed
    #[error("cannot set the boot MSRs of vCPU {vcpu}")]
    Set {
        /// index of the vCPU
        vcpu: u8,
        /// KVM's error
        #[source]
        source: errno::Error,
    },
    /// KVM takes them in order and stops at the first that it refuses
    #[error("KVM refuses MSR {msr:#x} of vCPU {vcpu}")]
    Refused {
        /// index of the vCPU
        vcpu: u8,
        /// index of the MSR
        msr: u32,
    },
}

/// Values that firmware would have set: fast strings, and all memory cacheable (Linux leaves the
/// page attribute table alone when MTRRs are off).
const BOOT_MSRS: [(u32, u64); 2] =
    [(IA32_MISC_ENABLE, FAST_STRINGS), (IA32_MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK)];

/// Sets the boot MSRs of one vCPU.
pub fn set_boot_msrs(fd: &VcpuFd, vcpu: u8) -> Result<(), MsrError> {
    let entries =
        BOOT_MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let set = |source| MsrError::Set { vcpu, source };
    // Two entries are far below the wrapper's bound.
    let msrs = Msrs::from_entries(&entries).map_err(|_| set(errno::Error::new(libc::E2BIG)))?;
    let taken = fd.set_msrs(&msrs).map_err(set)?;
    match BOOT_MSRS.get(taken) {
        Some((msr, _)) => Err(MsrError::Refused { vcpu, msr: *msr }),
        None => Ok(()),
    }
}
