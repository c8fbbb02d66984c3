//! A vCPU: made ready, then run on a thread of its own until the machine ends.

use std::sync::Mutex;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

use crate::vmm::arch::x86_64::msr::{self, MsrError};
use crate::vmm::arch::x86_64::regs::Entry;
use crate::vmm::arch::x86_64::state::{StateError, VcpuState};
use crate::vmm::devices::bus::{Bus, Effect};
use crate::vmm::exit::{Ending, Enrolled, Exit, RunError, lock};
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
    /// it goes on asking for accesses while it is to be paused
    #[error("vCPU {vcpu} does not come to rest: {MAX_COMPLETIONS} accesses in one instruction")]
    Restless {
        /// index of the vCPU
        vcpu: u8,
    },
    /// its state cannot be read or set
    #[error(transparent)]
    State(#[from] StateError),
    /// an exit that this machine has no use for
    #[error("KVM left vCPU {vcpu} with an unexpected exit: {exit}")]
    Unexpected {
        /// index of the vCPU
        vcpu: u8,
        /// the exit
        exit: String,
    },
}

/// Accesses that one instruction may still ask for when its vCPU is to be paused.
const MAX_COMPLETIONS: u32 = 1 << 16;

/// What one KVM_RUN came to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The guest goes on.
    Done,
    /// Nothing was run, or not to an exit: somebody wants something.
    Interrupted,
    /// The guest's processor gave up.
    TripleFault,
    /// It means something for the whole machine.
    Effect(Effect),
}

/// A vCPU that is not running at the moment.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u8,
}

impl Vcpu {
    /// vCPU `id` of `vm`, in the state in which firmware leaves a processor that waits for its
    /// startup interrupt.
    pub fn new(vm: &Vm, id: u8) -> Result<Self, VcpuError> {
        let vcpu = Self::bare(vm, id)?;
        msr::set_boot_msrs(&vcpu.fd, id)?;
        Ok(vcpu)
    }

    fn bare(vm: &Vm, id: u8) -> Result<Self, VcpuError> {
        let setup = |what| {
            move |source| VcpuError::Setup { vcpu: id, source: KvmError::Refused { what, source } }
        };
        let fd = vm.fd().create_vcpu(id.into()).map_err(setup("create the vCPU"))?;
        let cpuid = vm
            .cpuid()
            .of_vcpu(id)
            .map_err(|_| setup("hold so many CPUID entries")(errno::Error::new(libc::E2BIG)))?;
        fd.set_cpuid2(&cpuid).map_err(setup("set CPUID"))?;
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

    /// The vCPU itself, for its VM.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Its whole state, for a snapshot.
    pub fn save(&self, msrs: &[u32]) -> Result<VcpuState, VcpuError> {
        Ok(VcpuState::of(&self.fd, self.id, msrs)?)
    }

    /// vCPU `id` of `vm` as it was saved, in a machine whose CPUID was the same.
    pub fn restore(vm: &Vm, id: u8, state: &VcpuState) -> Result<Self, VcpuError> {
        let vcpu = Self::bare(vm, id)?;
        state.apply(&vcpu.fd, id)?;
        Ok(vcpu)
    }

    /// Tells the guest's clock that it was stopped, so that its watchdogs do not bark. A guest
    /// without kvmclock has none to be told.
    pub fn was_paused(&self) {
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs `vcpu` until the machine ends, by this vCPU's doing or another's. `before_first` is
    /// called right before the first KVM_RUN. While the machine is paused, `vcpu` is free for
    /// others to lock.
    pub fn run(vcpu: &Mutex<Self>, bus: &Bus, ending: &Ending, before_first: impl FnOnce()) {
        let enrolled = ending.enroll(&mut lock(vcpu).fd);
        before_first();
        while ending.may_run() {
            let mut vcpu = lock(vcpu);
            enrolled.set_immediate_exit(false);
            while !ending.halted() {
                vcpu.step(bus, ending);
            }
            if !ending.ended() {
                vcpu.come_to_rest(bus, ending, &enrolled);
            }
        }
    }

    /// Brings the state that KVM tells to what the guest has seen: an access that the last exit
    /// asked for is completed by the next KVM_RUN alone (KVM API, 5, "exit_reason").
    fn come_to_rest(&mut self, bus: &Bus, ending: &Ending, enrolled: &Enrolled<'_>) {
        enrolled.set_immediate_exit(true);
        // A string instruction asks again and again.
        for _ in 0..MAX_COMPLETIONS {
            if self.step(bus, ending) == Step::Interrupted || ending.ended() {
                return;
            }
        }
        ending.end(Err(RunError::Vcpu(VcpuError::Restless { vcpu: self.id })));
    }

    fn step(&mut self, bus: &Bus, ending: &Ending) -> Step {
        match self.run_once(bus) {
            Ok(Step::Effect(Effect::Reset)) => ending.reset(),
            Ok(Step::Effect(Effect::Said(event))) => ending.guest_said(event),
            Ok(Step::TripleFault) => ending.triple_fault(self.id),
            Ok(Step::Effect(Effect::PowerOff)) => ending.end(Ok(Exit::PowerOff)),
            Ok(step) => return step,
            Err(error) => ending.end(Err(RunError::Vcpu(error))),
        }
        Step::Done
    }

    /// One KVM_RUN and what it asks for.
    fn run_once(&mut self, bus: &Bus) -> Result<Step, VcpuError> {
        let vcpu = self.id;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                Ok(bus.port_write(port, data).map_or(Step::Done, Step::Effect))
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.port_read(port, data);
                Ok(Step::Done)
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.mmio_read(address, data);
                Ok(Step::Done)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.mmio_write(address, data);
                Ok(Step::Done)
            }
            Ok(VcpuExit::Shutdown) => Ok(Step::TripleFault),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Ok(Step::Effect(Effect::Reset)),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                Ok(Step::Effect(Effect::PowerOff))
            }
            Ok(VcpuExit::Intr) => Ok(Step::Interrupted),
            Ok(VcpuExit::IrqWindowOpen) => Ok(Step::Done),
            Ok(VcpuExit::FailEntry(reason, cpu)) => Err(VcpuError::FailEntry { vcpu, reason, cpu }),
            Ok(VcpuExit::InternalError) => Err(self.internal_error()),
            Ok(exit) => Err(VcpuError::Unexpected { vcpu, exit: format!("{exit:?}") }),
            // A kick; or a waiting processor was woken, which is to run again.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                Ok(Step::Interrupted)
            }
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
