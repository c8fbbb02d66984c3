//! A vCPU: made ready, then run on a thread of its own until the machine ends.

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

use crate::vmm::arch::x86_64::msr::{self, MsrError};
use crate::vmm::arch::x86_64::regs::Entry;
use crate::vmm::devices::bus::{Bus, Effect};
use crate::vmm::exit::{Ending, Exit, RunError};
use crate::vmm::kvm::{KvmError, Vm};

/// A vCPU cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused to make it ready
    #[error("vCPU {vcpu}")]
    Setup {
        /// index of the vCPU
        vcpu: u8,
        /// what was refused
        #[source]
        source: KvmError,
    },
    /// KVM refused a boot MSR
    #[error(transparent)]
    Msr(#[from] MsrError),
    /// KVM_RUN failed
    #[error("KVM cannot run vCPU {vcpu}")]
    Run {
        /// index of the vCPU
        vcpu: u8,
        /// why
        #[source]
        source: errno::Error,
    },
    /// KVM_EXIT_INTERNAL_ERROR: most often an instruction that KVM cannot emulate
    #[error("KVM failed on vCPU {vcpu}: internal error {suberror} at rip {rip:#x}, data {data:x?}")]
    Internal {
        /// index of the vCPU
        vcpu: u8,
        /// KVM's kind of error (`KVM_INTERNAL_ERROR_*`)
        suberror: u32,
        /// where the guest was
        rip: u64,
        /// what KVM says besides
        data: Vec<u64>,
    },
    /// KVM_EXIT_FAIL_ENTRY: the processor refused the guest's state
    #[error("the processor cannot enter the guest on vCPU {vcpu}: reason {reason:#x}, CPU {cpu}")]
    FailEntry {
        /// index of the vCPU
        vcpu: u8,
        /// the processor's code
        reason: u64,
        /// on which of the host's processors
        cpu: u32,
    },
    /// an exit that this machine has no use for
    #[error("KVM left vCPU {vcpu} with an unexpected exit: {exit}")]
    Unexpected {
        /// index of the vCPU
        vcpu: u8,
        /// the exit
        exit: String,
    },
}

/// A vCPU that has not run yet.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u8,
}

impl Vcpu {
    /// vCPU `id` of `vm`, in the state in which firmware leaves a processor that waits for its
    /// startup interrupt.
    pub fn new(vm: &Vm, id: u8) -> Result<Self, VcpuError> {
        let setup = |what| {
            move |source| VcpuError::Setup { vcpu: id, source: KvmError::Refused { what, source } }
        };
        let fd = vm.fd().create_vcpu(id.into()).map_err(setup("create the vCPU"))?;
        let cpuid = vm
            .cpuid()
            .of_vcpu(id)
            .map_err(|_| setup("hold so many CPUID entries")(errno::Error::new(libc::E2BIG)))?;
        fd.set_cpuid2(&cpuid).map_err(setup("set CPUID"))?;
        msr::set_boot_msrs(&fd, id)?;
        Ok(Self { fd, id })
    }

    /// Makes this the boot CPU: its first instruction is the kernel's.
    pub fn enter_at(&self, entry: Entry) -> Result<(), VcpuError> {
        let setup = |what| {
            move |source| VcpuError::Setup {
                vcpu: self.id,
                source: KvmError::Refused { what, source },
            }
        };
        let mut sregs = self.fd.get_sregs().map_err(setup("read the system registers"))?;
        entry.set_sregs(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(setup("set the system registers"))?;
        self.fd.set_regs(&entry.regs()).map_err(setup("set the registers"))
    }

    /// Runs until the machine ends, by this vCPU's doing or another's. `before_first` is called
    /// right before the first KVM_RUN.
    pub fn run(mut self, bus: &Bus, ending: &Ending, before_first: impl FnOnce()) {
        let _enrolled = ending.enroll(&mut self.fd);
        before_first();
        while !ending.ended() {
            match self.run_once(bus) {
                Ok(None) => {}
                Ok(Some(Effect::Reset)) => ending.reset(),
                Ok(Some(Effect::Said(event))) => ending.guest_said(event),
                Ok(Some(Effect::PowerOff)) => ending.end(Ok(Exit::PowerOff)),
                Err(error) => ending.end(Err(RunError::Vcpu(error))),
            }
        }
    }

    /// One KVM_RUN and what it asks for.
    fn run_once(&mut self, bus: &Bus) -> Result<Option<Effect>, VcpuError> {
        let vcpu = self.id;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => Ok(bus.port_write(port, data)),
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.port_read(port, data);
                Ok(None)
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                Ok(None)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.mmio_write(address, data);
                Ok(None)
            }
            // A triple fault.
            Ok(VcpuExit::Shutdown) => Ok(Some(Effect::Reset)),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Ok(Some(Effect::Reset)),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Ok(Some(Effect::PowerOff)),
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Ok(None),
            Ok(VcpuExit::FailEntry(reason, cpu)) => Err(VcpuError::FailEntry { vcpu, reason, cpu }),
            Ok(VcpuExit::InternalError) => Err(self.internal_error()),
            Ok(exit) => Err(VcpuError::Unexpected { vcpu, exit: format!("{exit:?}") }),
            // A kick; or a waiting processor was woken, which is to run again.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(None),
            Err(source) => Err(VcpuError::Run { vcpu, source }),
        }
    }

    fn internal_error(&mut self) -> VcpuError {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        // SAFETY: this variant of the union is the one that KVM filled for this exit; all its
        // fields are integers.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let count = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
        VcpuError::Internal {
            vcpu: self.id,
            suberror: internal.suberror,
            rip,
            data: internal.data.iter().take(count).copied().collect(),
        }
    }
}
