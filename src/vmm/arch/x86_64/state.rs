//! The whole state of a vCPU, read for a snapshot and written back in another process.
//!
//! The order in which it is written matters: the system registers place the local APIC, the local
//! APIC's timer mode decides what the TSC deadline means, and a halted vCPU is only halted once all
//! else is there (KVM API, 4).

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

/// Counts while the machine does not run: set before what is measured by it.
const IA32_TSC: u32 = 0x10;
/// Set last: a deadline that has passed raises the timer's interrupt at once.
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Relative difference of TSC frequencies that is not worth scaling for: what a host's own
/// calibration varies by from boot to boot, in parts of a million.
const TSC_TOLERANCE_PPM: u64 = 250;

/// Most MSRs that a snapshot holds: KVM has about 200 to save.
const MAX_MSRS: usize = 1024;

/// The state of a vCPU cannot be read or set.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// an ioctl failed
    #[error("KVM cannot {what} of vCPU {vcpu}")]
    Refused {
        /// index of the vCPU
        vcpu: u8,
        /// what was asked of it
        what: &'static str,
        /// why
        #[source]
        source: errno::Error,
    },
    /// an MSR of the snapshot is none of this host's, or cannot have that value
    #[error("KVM refuses {value:#x} in MSR {msr:#x} of vCPU {vcpu}")]
    Msr {
        /// index of the vCPU
        vcpu: u8,
        /// index of the MSR
        msr: u32,
        /// what it was to become
        value: u64,
    },
    /// more than KVM has
    #[error("{0} MSRs in the state of a vCPU")]
    TooManyMsrs(usize),
}

/// A vCPU that does not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    /// Frequency of its TSC in kHz; 0 where KVM does not tell.
    tsc_khz: u32,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    regs: kvm_regs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// In the order in which they are set.
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    mp_state: kvm_mp_state,
}

impl VcpuState {
    /// Reads the state of vCPU `id`, with those of `msrs` that it has.
    pub fn of(fd: &VcpuFd, id: u8, msrs: &[u32]) -> Result<Self, StateError> {
        let refused = |what| move |source| StateError::Refused { vcpu: id, what, source };
        // First: KVM takes in startup interrupts that wait, which changes the registers.
        let mp_state = fd.get_mp_state().map_err(refused("read the run state"))?;
        Ok(Self {
            tsc_khz: fd.get_tsc_khz().unwrap_or(0),
            sregs: fd.get_sregs().map_err(refused("read the system registers"))?,
            xcrs: fd.get_xcrs().map_err(refused("read the extended control registers"))?,
            xsave: fd.get_xsave().map_err(refused("read the floating point state"))?,
            regs: fd.get_regs().map_err(refused("read the registers"))?,
            debug: fd.get_debug_regs().map_err(refused("read the debug registers"))?,
            lapic: fd.get_lapic().map_err(refused("read the local APIC"))?,
            msrs: read_msrs(fd, msrs).map_err(refused("read the MSRs"))?,
            events: fd.get_vcpu_events().map_err(refused("read the pending events"))?,
            mp_state,
        })
    }

    /// Brings a new vCPU, whose CPUID is set, into this state.
    pub fn apply(&self, fd: &VcpuFd, id: u8) -> Result<(), StateError> {
        let refused = |what| move |source| StateError::Refused { vcpu: id, what, source };
        self.set_tsc_frequency(fd).map_err(refused("set the TSC frequency"))?;
        fd.set_sregs(&self.sregs).map_err(refused("set the system registers"))?;
        fd.set_xcrs(&self.xcrs).map_err(refused("set the extended control registers"))?;
        // SAFETY: KVM reads more than the 4096 bytes of a kvm_xsave only for state components that
        // a process has to ask for by arch_prctl, and this one never does.
        unsafe { fd.set_xsave(&self.xsave) }.map_err(refused("set the floating point state"))?;
        fd.set_regs(&self.regs).map_err(refused("set the registers"))?;
        fd.set_debug_regs(&self.debug).map_err(refused("set the debug registers"))?;
        fd.set_lapic(&self.lapic).map_err(refused("set the local APIC"))?;
        self.set_msrs(fd, id)?;
        fd.set_vcpu_events(&self.events).map_err(refused("set the pending events"))?;
        fd.set_mp_state(self.mp_state).map_err(refused("set the run state"))
    }

    /// A guest that was told another frequency is given it by scaling, where the host can.
    fn set_tsc_frequency(&self, fd: &VcpuFd) -> Result<(), errno::Error> {
        let (saved, host) = (u64::from(self.tsc_khz), u64::from(fd.get_tsc_khz().unwrap_or(0)));
        if saved == 0 || saved.abs_diff(host) * 1_000_000 <= saved * TSC_TOLERANCE_PPM {
            return Ok(());
        }
        fd.set_tsc_khz(self.tsc_khz)
    }

    fn set_msrs(&self, fd: &VcpuFd, id: u8) -> Result<(), StateError> {
        let refused = |source| StateError::Refused { vcpu: id, what: "set the MSRs", source };
        if self.msrs.len() > MAX_MSRS {
            return Err(StateError::TooManyMsrs(self.msrs.len()));
        }
        let mut rest = self.msrs.as_slice();
        loop {
            let msrs = entries(rest).map_err(refused)?;
            // KVM takes them in order and stops at the first that it refuses.
            let taken = fd.set_msrs(&msrs).map_err(refused)?;
            let Some((stopped_at, after)) = rest.get(taken..).and_then(<[_]>::split_first) else {
                return Ok(());
            };
            // Some that can be read cannot be written, not even with the value that they have.
            let has = read_msrs(fd, &[stopped_at.index]).map_err(refused)?;
            if has.first().is_none_or(|msr| msr.data != stopped_at.data) {
                let kvm_msr_entry { index: msr, data: value, .. } = *stopped_at;
                return Err(StateError::Msr { vcpu: id, msr, value });
            }
            rest = after;
        }
    }
}

fn entries(msrs: &[kvm_msr_entry]) -> Result<Msrs, errno::Error> {
    Msrs::from_entries(msrs).map_err(|_| errno::Error::new(libc::E2BIG))
}

/// The values of those MSRs that can be read, in the order in which they are to be set.
fn read_msrs(fd: &VcpuFd, wanted: &[u32]) -> Result<Vec<kvm_msr_entry>, errno::Error> {
    let mut wanted: Vec<u32> = wanted.to_vec();
    wanted.sort_by_key(|msr| place(*msr));
    let mut read = Vec::with_capacity(wanted.len());
    let mut rest = wanted.as_slice();
    while !rest.is_empty() {
        let entry = |index: &u32| kvm_msr_entry { index: *index, ..Default::default() };
        let mut msrs = entries(&rest.iter().map(entry).collect::<Vec<_>>())?;
        // KVM stops at the first that it does not have for this vCPU.
        let count = fd.get_msrs(&mut msrs)?;
        read.extend(msrs.as_slice().iter().take(count));
        rest = rest.get(count + 1..).unwrap_or_default();
    }
    Ok(read)
}

fn place(msr: u32) -> u8 {
    match msr {
        IA32_TSC => 0,
        IA32_TSC_DEADLINE => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_set_behind_all_others() {
        let mut msrs = [IA32_TSC_DEADLINE, 0x174, IA32_TSC, 0x6e1];
        msrs.sort_by_key(|msr| place(*msr));
        assert_eq!(msrs, [IA32_TSC, 0x174, 0x6e1, IA32_TSC_DEADLINE]);
    }
}
