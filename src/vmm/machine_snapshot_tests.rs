//! Machines saved and restored, with kernels of a few instructions, on this host's KVM.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::tests::{config, skip};
use super::*;
use crate::vmm::snapshot::format::FormatError;
use crate::vmm::test_kernel::TestKernel;

const COUNTER: GuestAddress = GuestAddress(0x20_0000);
const FLAG: GuestAddress = GuestAddress(0x20_0004);

/// Counts, and says a dot for each count, until somebody sets the flag; then says "d" and resets.
const COUNTING: [u8; 34] = [
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0x31, 0xc9, // xor ecx, ecx
    0x41, // 1: inc ecx
    0x89, 0x0d, 0x00, 0x00, 0x20, 0x00, // mov [0x200000], ecx
    0xb0, 0x2e, 0xee, // mov al, '.'; out dx, al
    0x80, 0x3d, 0x04, 0x00, 0x20, 0x00, 0x00, // cmp byte [0x200004], 0
    0x74, 0xed, // je 1b
    0xb0, 0x64, 0xee, // mov al, 'd'; out dx, al
    0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe, // reset
];

/// A running machine of two vCPUs that has counted a little; none, with the reason printed, on a
/// host without KVM.
fn counting() -> Option<Running> {
    let file = TestKernel::pvh(&COUNTING).file();
    let config = MachineConfig { vcpus: 2, rng: true, ..config(file.path()) };
    let running = match Machine::new(config) {
        Err(MachineError::Kvm(KvmError::Open(error))) => {
            skip(&error);
            return None;
        }
        machine => machine.unwrap().start().unwrap(),
    };
    while count(&running) < 3 {
        std::thread::yield_now();
    }
    Some(running)
}

/// What the guest has counted, with the machine paused.
fn count(running: &Running) -> u32 {
    let paused = running.pause();
    let count = running.parts.memory.read_obj(COUNTER).unwrap();
    drop(paused);
    count
}

fn save(running: &Running) -> (File, File) {
    let files = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    running.pause().save(&files.0, &files.1, true).unwrap();
    files
}

fn restore((state, memory): &(File, File)) -> Result<Running, MachineError> {
    let snapshot = Snapshot::read(state, memory.try_clone().unwrap())?;
    snapshot.verify_memory()?;
    Machine::restore(snapshot, Plugs::default())?.start()
}

/// Tells the guest to end, and waits for that: its end, and what it has said.
fn finish(running: Running) -> (Exit, String) {
    running.parts.memory.write_obj(1u8, FLAG).unwrap();
    let console = running.console();
    (running.finish().unwrap(), console.tail())
}

#[test]
fn a_paused_machine_stands_still_and_goes_on() {
    let Some(running) = counting() else { return };
    let paused = running.pause();
    let read = || running.parts.memory.read_obj::<u32>(COUNTER).unwrap();
    let before = read();
    for _ in 0..1000 {
        assert_eq!(read(), before);
    }
    drop(paused);
    while count(&running) <= before {
        std::thread::yield_now();
    }
    let (exit, said) = finish(running);
    assert!(exit == Exit::Reset && said.ends_with("..d"), "{exit:?} {said}");
}

#[test]
fn two_machines_go_on_from_one_snapshot_apart_from_each_other() {
    let Some(running) = counting() else { return };
    let saved = save(&running);
    let at_least = {
        let mut bytes = [0; 4];
        saved.1.read_exact_at(&mut bytes, COUNTER.0).unwrap();
        u32::from_le_bytes(bytes)
    };
    drop(running);
    let (one, other) = (restore(&saved).unwrap(), restore(&saved).unwrap());
    assert!(count(&one) >= at_least && count(&other) >= at_least);
    let (exit, said) = finish(one);
    assert!(exit == Exit::Reset && said.ends_with('d') && !said.contains("d."), "{said}");
    let before = count(&other);
    while count(&other) == before {
        std::thread::yield_now();
    }
    // A snapshot of what was restored is one like any other.
    let again = save(&other);
    drop(other);
    assert_eq!(finish(restore(&again).unwrap()).0, Exit::Reset);
}

#[test]
fn a_paused_machine_can_be_stopped() {
    let Some(running) = counting() else { return };
    let paused = running.pause();
    running.stop();
    drop(paused);
    assert_eq!(running.finish().unwrap(), Exit::Stopped);
}

#[test]
fn what_is_damaged_or_foreign_is_refused_before_anything_runs() {
    let Some(running) = counting() else { return };
    let saved = save(&running);
    drop(running);
    let len = saved.0.metadata().unwrap().len();

    saved.1.write_all_at(b"!", COUNTER.0 + 100).unwrap();
    let altered = restore(&saved).unwrap_err();
    assert!(crate::report::chain(&altered).contains("checksum"), "{altered}");
    saved.1.set_len(1 << 20).unwrap();
    let shorter = restore(&saved).unwrap_err();
    assert!(crate::report::chain(&shorter).contains("1048576 bytes"), "{shorter}");
    saved.0.set_len(len - 1).unwrap();
    let truncated = restore(&saved).unwrap_err();
    assert!(matches!(
        truncated,
        MachineError::Snapshot(SnapshotError::Format(FormatError::Truncated { .. }))
    ));
}
