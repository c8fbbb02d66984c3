//! Machines with kernels of a few instructions, on this host's KVM.

use std::sync::mpsc;

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::vmm::config::SerialMode;
use crate::vmm::host::Host;
use crate::vmm::test_kernel::TestKernel;

pub fn config(kernel: &std::path::Path) -> MachineConfig {
    MachineConfig {
        kernel: kernel.into(),
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
    }
}

/// Says that the calling test does not run here; `tools/test` counts these lines.
pub fn skip(error: &dyn std::fmt::Display) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    println!("skipped: {name}: no KVM: {error}");
}

/// Runs a kernel to its orderly end; none, with the reason printed, on a host without KVM.
fn run(kernel: &TestKernel, change: impl FnOnce(&mut MachineConfig)) -> Option<(Exit, String)> {
    end_of(kernel, change).map(|(end, said)| (end.unwrap(), said))
}

fn end_of(
    kernel: &TestKernel,
    change: impl FnOnce(&mut MachineConfig),
) -> Option<(Result<Exit, MachineError>, String)> {
    let file = kernel.file();
    let mut config = config(file.path());
    change(&mut config);
    let running = match Machine::new(config) {
        Err(MachineError::Kvm(KvmError::Open(error))) => {
            skip(&error);
            return None;
        }
        machine => machine.unwrap().start().unwrap(),
    };
    let console = running.console();
    Some((running.finish(), console.tail()))
}

/// `out dx, al` for each byte, then the reset command.
fn say_and_reset(text: &[u8]) -> Vec<u8> {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for byte in text {
        code.extend([0xb0, *byte, 0xee]); // mov al, byte; out dx, al
    }
    code.extend(RESET);
    code
}

/// mov al, 0xfe; out 0x64, al; 1: jmp 1b
const RESET: [u8; 6] = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

#[test]
fn keyboard_controller_resets() {
    let Some((exit, tail)) = run(&TestKernel::pvh(&say_and_reset(b"hi")), |_| {}) else {
        return;
    };
    assert_eq!((exit, tail.as_str()), (Exit::Reset, "hi"));
}

#[test]
fn sixty_four_bit_entry_runs() {
    let Some((exit, _)) = run(&TestKernel::linux64(&RESET), |_| {}) else {
        return;
    };
    assert_eq!(exit, Exit::Reset);
}

#[test]
fn triple_fault_is_a_failure() {
    // lidt of an empty table, then an undefined instruction.
    let code = [0x0f, 0x01, 0x1d, 0x09, 0x00, 0x10, 0x00, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0];
    let Some((end, _)) = end_of(&TestKernel::pvh(&code), |_| {}) else {
        return;
    };
    assert!(matches!(end, Err(MachineError::Run(RunError::TripleFault { vcpu: 0 }))), "{end:?}");
}

#[test]
fn halted_kernels_have_powered_off() {
    let code = say_and_reset(b"reboot: System halted\n");
    let Some((exit, _)) = run(&TestKernel::pvh(&code), |_| {}) else {
        return;
    };
    assert_eq!(exit, Exit::PowerOff);
}

#[test]
fn a_panic_before_the_reset_is_told() {
    let code = say_and_reset(b"[ 0.1] Kernel panic - not syncing: no init\n");
    let Some((exit, _)) = run(&TestKernel::pvh(&code), |_| {}) else {
        return;
    };
    assert_eq!(exit, Exit::GuestPanic { message: "no init".into() });
}

#[test]
fn the_command_line_reaches_the_kernel() {
    let code = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0x8b, 0x73, 0x18, // mov esi, [ebx + 24]: cmdline_paddr
        0xac, // 1: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz 2f
        0xee, // out dx, al
        0xeb, 0xf8, // jmp 1b
        0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe, // 2: reset
    ];
    let kernel = TestKernel::pvh(&code);
    let Some((exit, tail)) = run(&kernel, |c| {
        c.cmdline = "hello=world".into();
        c.rng = true;
    }) else {
        return;
    };
    assert_eq!(exit, Exit::Reset);
    assert!(tail.contains(" hello=world virtio_mmio.device=4K@0xd0000000:5"), "{tail}");
}

#[test]
fn virtio_registers_are_at_their_address() {
    let code = [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xa1, 0x00, 0x00, 0x00, 0xd0, // mov eax, [0xd0000000]
        0xb9, 0x04, 0x00, 0x00, 0x00, // mov ecx, 4
        0xee, // 1: out dx, al
        0xc1, 0xe8, 0x08, // shr eax, 8
        0x49, // dec ecx
        0x75, 0xf9, // jnz 1b
        0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe,
    ];
    let Some((exit, tail)) = run(&TestKernel::pvh(&code), |c| c.rng = true) else {
        return;
    };
    assert_eq!((exit, tail.as_str()), (Exit::Reset, "virt"));
}

#[test]
fn a_spinning_guest_can_be_stopped() {
    let file = TestKernel::pvh(&[0xeb, 0xfe]).file();
    let machine = match Machine::new(MachineConfig { vcpus: 3, ..config(file.path()) }) {
        Err(MachineError::Kvm(KvmError::Open(error))) => {
            skip(&error);
            return;
        }
        machine => machine.unwrap(),
    };
    let running = machine.start().unwrap();
    let stopper = running.stopper();
    let (sender, receiver) = mpsc::channel();
    let other = thread::spawn(move || {
        stopper.stop();
        sender.send(()).unwrap();
    });
    receiver.recv().unwrap();
    let first_run = running.first_run.clone();
    assert_eq!(running.finish().unwrap(), Exit::Stopped);
    assert!(first_run.get().is_some());
    other.join().unwrap();
}

#[test]
fn dropping_a_running_machine_stops_it() {
    let file = TestKernel::pvh(&[0xeb, 0xfe]).file();
    match Machine::new(config(file.path())) {
        Err(MachineError::Kvm(KvmError::Open(error))) => skip(&error),
        machine => drop(machine.unwrap().start().unwrap()),
    }
}

#[test]
fn a_notification_reaches_its_eventfd() {
    // mov dword [0xd0000050], 1; reset
    let code = [&[0xc7, 0x05, 0x50, 0, 0, 0xd0, 1, 0, 0, 0], RESET.as_slice()].concat();
    let memory = memory::allocate(32).unwrap();
    let file = TestKernel::pvh(&code).file();
    let cmdline = command_line("", SerialMode::Off, &[]).unwrap();
    let boot = Boot {
        kernel: file.path(),
        initrd: None,
        cmdline: &cmdline,
        vcpus: 1,
        memory_mib: 32,
        host: &Host::default(),
    };
    let entry = boot.load(&memory).unwrap();
    let vm = match Vm::new(&Host::default(), &memory, 1) {
        Err(KvmError::Open(error)) => return skip(&error),
        vm => vm.unwrap(),
    };
    let events: Vec<_> = (0..2).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap()).collect();
    for (value, event) in (0..).zip(&events) {
        vm.bind_notification(event, 0xd000_0050, value).unwrap();
    }
    let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    vm.bind_interrupt(&line, 5).unwrap();
    let vcpu = Vcpu::new(&vm, 0).unwrap();
    vcpu.enter_at(entry).unwrap();
    let (port, _) = Port::new(SerialMode::Off, &SerialState::default()).unwrap();
    let ending = Ending::new().unwrap();
    let bus = Bus::new(Arc::new(Mutex::new(port)), Vec::new());
    Vcpu::run(&Mutex::new(vcpu), &bus, &ending, || {});
    assert!(matches!(ending.take_outcome(), Some(Ok(Exit::Reset))));
    assert!(events[0].read().is_err());
    assert_eq!(events[1].read().unwrap(), 1);
}

#[test]
fn what_does_not_exist_is_named() {
    let error = Machine::new(config("/nonexistent/kernel".as_ref())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/kernel"), "{error}");
}
