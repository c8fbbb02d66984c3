//! A machine from its configuration to its end.
//!
//! [`Machine::new`] does everything up to the first KVM_RUN, [`Machine::start`] gives every vCPU a
//! thread, and all devices one; the caller's thread stays free. The machine ends for the first
//! reason that any of them has (see [`crate::vmm::exit`]).

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::vmm::arch::x86_64::layout::SERIAL_IRQ;
use crate::vmm::boot::{Announced, Boot, BootError, CmdlineError, command_line};
use crate::vmm::config::{ConfigError, MachineConfig};
use crate::vmm::devices::bus::Bus;
use crate::vmm::devices::list::{self, DeviceError};
use crate::vmm::devices::serial::{Console, Input, Port};
use crate::vmm::devices::thread::DeviceThread;
use crate::vmm::exit::{Ending, Exit, RunError, lock};
use crate::vmm::kvm::{KvmError, Vm};
use crate::vmm::memory::{self, MemoryError};
use crate::vmm::vcpu::{Vcpu, VcpuError};

/// A machine cannot be made or could not run on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// the configuration
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// the kernel command line
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// guest memory
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// kernel or initial RAM disk
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// a vCPU could not be made
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// a device
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// the host refused something small
    #[error("cannot {what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a running machine
    #[error(transparent)]
    Run(#[from] RunError),
    /// the threads left without a reason: a defect of this program
    #[error("the machine ended without a reason")]
    NoReason,
}

impl MachineError {
    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// A machine that is ready to run its first instruction.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    devices: DeviceThread,
    console: Console,
    ending: Arc<Ending>,
    vm: Vm,
}

impl Machine {
    /// Makes the machine and loads its kernel.
    pub fn new(config: MachineConfig) -> Result<Self, MachineError> {
        config.validate()?;
        let memory = memory::allocate(config.memory_mib)?;
        let ending =
            Arc::new(Ending::new().map_err(MachineError::host("prepare the machine's end"))?);
        let (port, console) =
            Port::new(config.serial).map_err(MachineError::host("make the serial port"))?;
        let port = Arc::new(Mutex::new(port));
        let input = Input::new(&port, ending.clone())
            .map_err(MachineError::host("read the serial port's input"))?;

        let devices = list::make(&config)?;
        let slots = list::attach(&devices, &memory)?;
        let announced: Vec<Announced> = slots.iter().map(|slot| slot.announced).collect();
        let cmdline = command_line(&config.cmdline, config.serial, &announced)?;
        let entry = Boot {
            kernel: &config.kernel,
            initrd: config.initrd.as_deref(),
            cmdline: &cmdline,
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
        }
        .load(&memory)?;

        let vm = Vm::new(&memory, config.vcpus)?;
        vm.bind_interrupt(lock(&port).line(), SERIAL_IRQ)?;
        for (slot, device) in slots.iter().zip(&devices) {
            slot.bind(&vm, device)?;
        }
        let vcpus =
            (0..config.vcpus).map(|id| Vcpu::new(&vm, id)).collect::<Result<Vec<_>, _>>()?;
        if let Some(boot_cpu) = vcpus.first() {
            boot_cpu.enter_at(entry)?;
        }
        let transports = slots.into_iter().map(|slot| slot.transport).collect();
        Ok(Self {
            vcpus,
            bus: Arc::new(Bus::new(port, transports)),
            devices: DeviceThread { devices, input },
            console,
            ending,
            vm,
        })
    }

    /// Lets the machine run.
    pub fn start(self) -> Result<Running, MachineError> {
        let Self { vcpus, bus, devices, console, ending, vm } = self;
        let first_run = Arc::new(OnceLock::new());
        // Dropped by an early return, it stops and joins the threads that are there by then.
        let mut running = Running {
            threads: Vec::with_capacity(vcpus.len() + 1),
            ending,
            console,
            first_run: first_run.clone(),
            _vm: vm,
        };
        // The boot CPU first: the others wait for it, and an event waits in its eventfd.
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let (bus, first_run) = (bus.clone(), first_run.clone());
            running.spawn("vCPU", format!("vcpu{id}"), move |ending| {
                vcpu.run(&bus, ending, || {
                    if id == 0 {
                        let _ = first_run.set(now());
                    }
                });
            })?;
        }
        running.spawn("device", "devices".into(), move |ending| devices.run(ending))?;
        Ok(running)
    }
}

/// CLOCK_MONOTONIC, as a time since its unspecified start; it cannot fail on Linux.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// A running machine; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
    console: Console,
    first_run: Arc<OnceLock<Duration>>,
    // After the threads: they run its vCPUs.
    _vm: Vm,
}

/// Stops a machine from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Ending>);

impl Stopper {
    /// Ends the machine with [`Exit::Stopped`] unless it has ended before.
    pub fn stop(&self) {
        self.0.end(Ok(Exit::Stopped));
    }
}

impl Running {
    /// A descriptor that is readable for good as soon as the machine has ended; it lives as long
    /// as this.
    pub fn exit_event(&self) -> RawFd {
        self.ending.event()
    }

    /// Ends the machine with [`Exit::Stopped`] unless it has ended before.
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// A handle with which any thread can stop the machine.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.ending.clone())
    }

    /// When the boot CPU was first run, on CLOCK_MONOTONIC; none before.
    pub fn first_run(&self) -> Option<Duration> {
        self.first_run.get().copied()
    }

    /// The guest's last output on its serial port, to be read also after [`Running::finish`].
    pub fn console(&self) -> Console {
        self.console.clone()
    }

    /// Waits until the machine has ended and all its threads are gone.
    pub fn finish(mut self) -> Result<Exit, MachineError> {
        self.join();
        match self.ending.take_outcome() {
            Some(outcome) => Ok(outcome?),
            None => Err(MachineError::NoReason),
        }
    }

    fn spawn(
        &mut self,
        kind: &'static str,
        name: String,
        body: impl FnOnce(&Ending) + Send + 'static,
    ) -> Result<(), MachineError> {
        let ending = self.ending.clone();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let guard = PanicGuard { ending: &ending, thread: kind };
                body(guard.ending);
            })
            .map_err(MachineError::host("start a thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // What a panicked thread has to say, its guard has said.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

/// Ends the machine if its thread panics: nobody would do that thread's work.
struct PanicGuard<'a> {
    ending: &'a Ending,
    thread: &'static str,
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ending.end(Err(RunError::Panicked { thread: self.thread }));
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
