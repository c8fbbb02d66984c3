//! Whether KVM is there and real.
//!
//! Some hosts offer a `/dev/kvm` without hardware virtualization behind it: the guest's kernel code
//! is interpreted, a thousand times slower. No capability tells; the time that a short loop of
//! kernel code takes does.

use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::errno;

use crate::vmm::arch::x86_64::regs::Entry;

/// What KVM on this host is.
#[derive(Debug, Clone, PartialEq)]
pub enum KvmReality {
    /// There is none, or it runs no guest, for this reason.
    Absent(String),
    /// This process may not use it.
    NotPermitted,
    /// It interprets the guest's kernel code.
    Interpreted {
        /// Instructions a second.
        ips: f64,
    },
    /// It runs the guest's kernel code on the processor.
    Real {
        /// Instructions a second.
        ips: f64,
    },
}

impl KvmReality {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Real { .. } => "real",
            Self::Interpreted { .. } => "interpreted",
            Self::NotPermitted => "forbidden",
            Self::Absent(_) => "absent",
        }
    }
}

/// Slower than any processor, even one that is itself emulated by translation; faster than any
/// interpreter.
const REAL_IPS: f64 = 20e6;

/// So often a loop must be slow before the processor is taken to be.
const ATTEMPTS: u32 = 5;

/// Turns of the loop: about a tenth of a second where it is interpreted.
const TURNS: u32 = 50_000;

/// Each exits to port 0: once when the guest is warm, once when the loop is done.
#[rustfmt::skip]
const CODE: [u8; 15] = [
    0xe6, 0x00,                   // out 0, al
    0xb9, 0x50, 0xc3, 0x00, 0x00, // mov ecx, 50000
    0x49,                         // 1: dec ecx
    0x75, 0xfd,                   // jnz 1b
    0xe6, 0x00,                   // out 0, al
    0xeb, 0xfe,                   // jmp .
    0x90,
];

const LOAD_AT: u32 = 0x1000;
const MEMORY: usize = 0x2000;

/// Asks `/dev/kvm`.
pub fn probe() -> KvmReality {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) if matches!(error.errno(), libc::EACCES | libc::EPERM) => {
            return KvmReality::NotPermitted;
        }
        Err(error) => return KvmReality::Absent(format!("/dev/kvm: {error}")),
    };
    // A busy host can hold the loop up, but nothing can make it faster than it is.
    let mut reality = attempt(&kvm);
    for _ in 1..ATTEMPTS {
        if !matches!(reality, KvmReality::Interpreted { .. }) {
            break;
        }
        reality = attempt(&kvm);
    }
    reality
}

fn attempt(kvm: &Kvm) -> KvmReality {
    match time_loop(kvm) {
        Ok(time) => judge(time),
        Err(error) => KvmReality::Absent(format!("/dev/kvm cannot run a guest: {error}")),
    }
}

fn judge(time: Duration) -> KvmReality {
    // Two instructions a turn.
    let ips = f64::from(2 * TURNS) / time.as_secs_f64().max(1e-9);
    if ips < REAL_IPS { KvmReality::Interpreted { ips } } else { KvmReality::Real { ips } }
}

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("{0}")]
    Kvm(#[from] errno::Error),
    #[error("no memory for it")]
    Memory,
    #[error("unexpected exit {0}")]
    Exit(String),
}

/// How long the loop takes, from one exit to the next.
fn time_loop(kvm: &Kvm) -> Result<Duration, ProbeError> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|_| ProbeError::Memory)?;
    let at = GuestAddress(LOAD_AT.into());
    memory.write_slice(&CODE, at).map_err(|_| ProbeError::Memory)?;
    let start = memory.get_host_address(GuestAddress(0)).map_err(|_| ProbeError::Memory)?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: start as u64,
    };

    let vm = kvm.create_vm()?;
    // SAFETY: the memory outlives the VM and its vCPU, which are declared after it.
    unsafe { vm.set_user_memory_region(slot) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    let entry = Entry::Pvh(LOAD_AT);
    let mut sregs = vcpu.get_sregs()?;
    entry.set_sregs(&mut sregs);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&entry.regs())?;

    run_to_exit(&mut vcpu)?;
    let start = Instant::now();
    run_to_exit(&mut vcpu)?;
    Ok(start.elapsed())
}

fn run_to_exit(vcpu: &mut VcpuFd) -> Result<(), ProbeError> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0, _)) => return Ok(()),
            Ok(exit) => return Err(ProbeError::Exit(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_counts_the_turns_that_are_judged() {
        assert_eq!(CODE[3..7], TURNS.to_le_bytes());
    }

    #[test]
    fn speed_decides() {
        assert!(matches!(judge(Duration::from_millis(100)), KvmReality::Interpreted { .. }));
        assert!(matches!(judge(Duration::from_micros(300)), KvmReality::Real { .. }));
        assert!(matches!(judge(Duration::ZERO), KvmReality::Real { .. }));
    }

    #[test]
    fn this_host_has_an_answer() {
        let reality = probe();
        println!("{reality:?}");
        if let KvmReality::Absent(reason) = reality {
            assert!(!reason.is_empty());
        }
    }
}
