//! A machine from its configuration to its end.
//!
//! [`Machine::new`] does everything up to the first KVM_RUN, as does [`Machine::restore`] for one
//! that was saved; [`Machine::start`] gives every vCPU a thread, and all devices one; the caller's
//! thread stays free. The machine ends for the first reason that any of them has (see
//! [`crate::vmm::exit`]). A running machine can be [paused](Running::pause), and a paused one
//! [saved](Paused::save).

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use vm_memory::GuestMemoryMmap;

use crate::vmm::arch::x86_64::layout::SERIAL_IRQ;
use crate::vmm::boot::{Announced, Boot, BootError, CmdlineError, command_line};
use crate::vmm::config::{ConfigError, MachineConfig};
use crate::vmm::devices::bus::Bus;
use crate::vmm::devices::list::{self, DeviceError};
use crate::vmm::devices::serial::{Console, Input, Port, SerialState};
use crate::vmm::devices::thread::DeviceThread;
use crate::vmm::devices::virtio::mmio::SharedDevice;
use crate::vmm::devices::virtio::{Counts, Place, Plug, PlugError, VirtioDevice};
use crate::vmm::exit::{Ending, Exit, RunError, lock};
use crate::vmm::host::Role;
use crate::vmm::kvm::{KvmError, Vm};
use crate::vmm::memory::{self, MemoryError};
use crate::vmm::snapshot::memory::MemoryState;
use crate::vmm::snapshot::state::{MachineState, Plugs};
use crate::vmm::snapshot::touched::Touched;
use crate::vmm::snapshot::{Snapshot, SnapshotError, format};
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
    /// a snapshot
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
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
    /// Whether it is a snapshot that does not do, and another one, or none, may.
    pub fn is_of_a_snapshot(&self) -> bool {
        matches!(
            self,
            Self::Snapshot(_)
                | Self::Device(DeviceError::Restore { .. })
                | Self::Vcpu(VcpuError::State(_))
        )
    }

    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// A machine that is ready to run its first instruction, or its next.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<Vcpu>,
    parts: Parts,
    devices: Vec<SharedDevice>,
    input: Option<Input>,
    console: Console,
    ending: Arc<Ending>,
}

/// What a snapshot needs of a machine beside its vCPUs and devices.
#[derive(Debug)]
struct Parts {
    config: MachineConfig,
    memory: GuestMemoryMmap,
    bus: Arc<Bus>,
    vm: Vm,
}

impl Machine {
    /// Makes the machine and loads its kernel.
    pub fn new(mut config: MachineConfig) -> Result<Self, MachineError> {
        config.validate()?;
        let memory = memory::allocate(config.memory_mib)?;
        let mut entry = None;
        let load = |announced: &[Announced]| {
            let cmdline = command_line(&config.cmdline, config.serial, announced)?;
            let boot = Boot {
                kernel: &config.kernel,
                initrd: config.initrd.as_deref(),
                cmdline: &cmdline,
                vcpus: config.vcpus,
                memory_mib: config.memory_mib,
                host: &config.host,
            };
            entry = Some(boot.load(&memory)?);
            Ok(())
        };
        let serial = SerialState::default();
        let mut machine = Self::assemble(config.clone(), memory.clone(), &serial, load)?;
        machine.parts.config.host.close_boot_files();
        config.host.close_boot_files();
        let vm = &machine.parts.vm;
        machine.vcpus = (0..config.vcpus).map(|id| Vcpu::new(vm, id)).collect::<Result<_, _>>()?;
        if let (Some(boot_cpu), Some(entry)) = (machine.vcpus.first(), entry) {
            boot_cpu.enter_at(entry)?;
        }
        Ok(machine)
    }

    /// Makes the machine of a snapshot, with other things plugged into it. What it says to CPUID,
    /// and with it whether it can go on at all, is this host's.
    pub fn restore(snapshot: Snapshot, plugs: Plugs) -> Result<Self, MachineError> {
        let Snapshot { state, memory: file, pages } = snapshot;
        let config = state.with(plugs)?;
        let memory = state.memory.map(config.memory_mib, &file).map_err(SnapshotError::from)?;
        pages.prepare(&memory);
        let mut machine = Self::assemble(config, memory, &state.serial, |_| Ok(()))?;
        let vm = &machine.parts.vm;
        state.check_cpu(vm.cpuid())?;
        machine.vcpus = (0..)
            .zip(&state.vcpus)
            .map(|(id, vcpu)| Vcpu::restore(vm, id, vcpu))
            .collect::<Result<_, _>>()?;
        vm.restore(&state.vm)?;
        if let Some(boot_cpu) = machine.vcpus.first() {
            vm.map_beforehand(boot_cpu.fd(), &pages.places(&machine.parts.memory));
        }
        // Last: the devices may raise interrupts.
        for ((index, transport), state) in
            machine.parts.bus.virtio().iter().enumerate().zip(&state.devices)
        {
            lock(transport)
                .restore(state)
                .map_err(|source| DeviceError::Restore { index, source })?;
        }
        Ok(machine)
    }

    /// Everything but the vCPUs. `load` puts into memory what is to be run, with these devices
    /// announced.
    fn assemble(
        config: MachineConfig,
        memory: GuestMemoryMmap,
        serial: &SerialState,
        load: impl FnOnce(&[Announced]) -> Result<(), MachineError>,
    ) -> Result<Self, MachineError> {
        let ending =
            Arc::new(Ending::new().map_err(MachineError::host("prepare the machine's end"))?);
        let (port, console) =
            Port::new(config.serial, serial).map_err(MachineError::host("make the serial port"))?;
        let port = Arc::new(Mutex::new(port));
        let input = Input::new(&port, ending.clone())
            .map_err(MachineError::host("read the serial port's input"))?;

        let devices = list::make(&config)?;
        let slots = list::attach(&devices, &memory)?;
        let announced: Vec<Announced> = slots.iter().map(|slot| slot.announced).collect();
        load(&announced)?;

        let vm = Vm::new(&config.host, &memory, config.vcpus)?;
        vm.bind_interrupt(lock(&port).line(), SERIAL_IRQ)?;
        for (slot, device) in slots.iter().zip(&devices) {
            slot.bind(&vm, device)?;
        }
        let transports = slots.into_iter().map(|slot| slot.transport).collect();
        let bus = Arc::new(Bus::new(port, transports));
        let parts = Parts { config, memory, bus, vm };
        Ok(Self { vcpus: Vec::new(), parts, devices, input, console, ending })
    }

    /// Lets the machine run.
    pub fn start(self) -> Result<Running, MachineError> {
        let Self { vcpus, parts, devices, input, console, ending } = self;
        let first_run = Arc::new(OnceLock::new());
        let bus = parts.bus.clone();
        let vcpus: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        // Dropped by an early return, it stops and joins the threads that are there by then.
        let mut running = Running {
            threads: Vec::with_capacity(vcpus.len() + 1),
            ending,
            console,
            first_run: first_run.clone(),
            vcpus: vcpus.clone(),
            devices: devices.clone(),
            parts,
        };
        // The boot CPU first: the others wait for it, and an event waits in its eventfd.
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let (bus, first_run) = (bus.clone(), first_run.clone());
            running.spawn(Role::Vcpu, "vCPU", format!("vcpu{id}"), move |ending| {
                Vcpu::run(&vcpu, &bus, ending, || {
                    if id == 0 {
                        let _ = first_run.set(now());
                    }
                });
            })?;
        }
        let devices = DeviceThread { devices, input };
        running
            .spawn(Role::Devices, "device", "devices".into(), move |ending| devices.run(ending))?;
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
    // After the threads: they run them.
    vcpus: Vec<Arc<Mutex<Vcpu>>>,
    devices: Vec<SharedDevice>,
    parts: Parts,
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

    /// Stops all vCPUs and all devices, until what is returned is dropped.
    pub fn pause(&self) -> Paused<'_> {
        self.ending.pause();
        // Locked, a vCPU has come to rest; the devices only then, as a vCPU may be at work on one.
        let vcpus: Vec<_> = self.vcpus.iter().map(|vcpu| lock(vcpu)).collect();
        for vcpu in &vcpus {
            vcpu.was_paused();
        }
        let mut devices: Vec<_> = self.devices.iter().map(|device| lock(device)).collect();
        devices.iter_mut().for_each(|device| device.pause());
        Paused { running: self, vcpus, devices }
    }

    /// The pages that its guest has touched so far.
    ///
    /// # Errors
    /// They cannot be told, or are too many to be worth it.
    pub fn touched(&self) -> io::Result<Touched> {
        let Parts { config, memory, .. } = &self.parts;
        Touched::of(memory, &*config.host.own_pages()?)
    }

    /// What its devices have counted, in their order.
    pub fn counts(&self) -> Vec<Counts> {
        self.devices.iter().filter_map(|device| lock(device).counts()).collect()
    }

    /// Plugs something into one of its devices.
    ///
    /// # Errors
    /// There is no such device, or it does not take it. The machine is as it was.
    pub fn plug(&self, place: Place, plug: Plug) -> Result<(), PlugError> {
        lock(self.device_at(place)?).plug(plug)
    }

    /// Takes out what is plugged into one of its devices.
    ///
    /// # Errors
    /// There is no such device, or nothing in it.
    pub fn unplug(&self, place: Place) -> Result<(), PlugError> {
        lock(self.device_at(place)?).unplug()
    }

    /// Disks are the first devices, network devices come behind them.
    fn device_at(&self, place: Place) -> Result<&SharedDevice, PlugError> {
        let MachineConfig { disks, nets, .. } = &self.parts.config;
        let (index, count, first) = match place {
            Place::Disk(index) => (index, disks.len(), 0),
            Place::Net(index) => (index, nets.len(), disks.len()),
        };
        let device = (index < count).then(|| self.devices.get(first + index)).flatten();
        device.ok_or(PlugError::NoPlace(place))
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
        role: Role,
        kind: &'static str,
        name: String,
        body: impl FnOnce(&Ending) + Send + 'static,
    ) -> Result<(), MachineError> {
        let ending = self.ending.clone();
        let host = self.parts.config.host.clone();
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                let guard = PanicGuard { ending: &ending, thread: kind };
                match host.confine(role) {
                    Ok(()) => body(guard.ending),
                    Err(source) => {
                        guard.ending.end(Err(RunError::Unconfined { thread: kind, source }));
                    }
                }
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

/// A machine in which nothing moves. Dropping it lets it go on.
pub struct Paused<'a> {
    running: &'a Running,
    vcpus: Vec<MutexGuard<'a, Vcpu>>,
    devices: Vec<MutexGuard<'a, dyn VirtioDevice + 'static>>,
}

impl std::fmt::Debug for Paused<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paused").field("vcpus", &self.vcpus.len()).finish_non_exhaustive()
    }
}

impl Paused<'_> {
    /// What its devices have counted, in their order.
    pub fn counts(&self) -> Vec<Counts> {
        self.devices.iter().filter_map(|device| device.counts()).collect()
    }

    /// Writes the machine down: its state to one file, its memory to another, both empty. With
    /// `checksum`, the memory can be verified later.
    pub fn save(&self, state: &File, memory: &File, checksum: bool) -> Result<(), MachineError> {
        let Parts { config, memory: guest, bus, vm } = &self.running.parts;
        for device in &self.devices {
            device.check_savable().map_err(SnapshotError::from)?;
        }
        let own = config
            .host
            .own_pages()
            .map_err(MachineError::host("see which pages of the guest's memory are in use"))?;
        let msrs = vm.msrs()?;
        let vcpus = self.vcpus.iter().map(|vcpu| vcpu.save(&msrs)).collect::<Result<_, _>>()?;
        let transports = bus.virtio().iter().zip(&self.devices);
        let written = MachineState {
            config: config.clone(),
            cpuid: vm.cpuid().clone(),
            vm: vm.save()?,
            vcpus,
            serial: lock(bus.serial()).save(),
            devices: transports
                .map(|(transport, device)| lock(transport).save(&**device))
                .collect(),
            memory: MemoryState::write(guest, memory, checksum, &own)
                .map_err(SnapshotError::from)?,
        };
        let bytes = format::encode(&written).map_err(SnapshotError::from)?;
        state.write_all_at(&bytes, 0).map_err(MachineError::host("write the snapshot's state"))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.devices.iter_mut().for_each(|device| device.resume());
        self.devices.clear();
        self.vcpus.clear();
        self.running.ending.resume();
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

#[cfg(test)]
#[path = "machine_snapshot_tests.rs"]
mod snapshot_tests;
