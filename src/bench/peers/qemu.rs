//! QEMU's `microvm` machine with the sandbox's own kernel and initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Setting, Unready};
use crate::bench::attempt::{Attempt, AttemptError};
use crate::bench::entrant::{Entrant, Span, Start, Subject};
use crate::bench::interrupt::Interrupt;
use crate::sandbox::GuestFiles;
use crate::vmm::boot::cmdline;

/// Everything is off that can be.
const MACHINE: &str = "microvm,acpi=off,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=off";

/// The machine has no device that resets it; a triple fault does.
const RESTART: &str = "reboot=t";

#[derive(Debug)]
struct Qemu {
    program: PathBuf,
    guest: GuestFiles,
    vcpus: u8,
    memory_mib: u32,
}

/// One entrant, which boots.
pub fn prepare(
    program: &Path,
    version: String,
    setting: &Setting<'_>,
) -> Result<Vec<Entrant>, Unready> {
    let options = setting.options;
    let qemu = Qemu {
        program: program.to_owned(),
        guest: GuestFiles::find(options.kernel.as_deref())?,
        vcpus: options.shape().vcpus,
        memory_mib: options.shape().memory_mib,
    };
    let does =
        "QEMU microvm: boots the same guest until its agent finds no host; runs no container";
    let subject = Box::new(qemu);
    Ok(vec![Entrant {
        name: "qemu cold".into(),
        does,
        version,
        span: Span::Whole,
        ours: false,
        subject,
    }])
}

impl Qemu {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-M", MACHINE, "-accel", "kvm", "-cpu", "host"]);
        command.args(["-smp", &self.vcpus.to_string(), "-m", &self.memory_mib.to_string()]);
        command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-device", "virtio-rng-device"]);
        command.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(&self.guest.initramfs);
        command.args(["-append", &format!("{} {RESTART}", cmdline::silent())]);
        command
    }
}

impl Subject for Qemu {
    fn start(&self, _label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let total_us = Attempt::of(self.command()).run(interrupt)?.length_us();
        Ok(Start { total_us, phases: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_machines_are_alike() {
        let guest = GuestFiles { kernel: "/k".into(), initramfs: "/i".into() };
        let qemu = Qemu { program: "qemu".into(), guest, vcpus: 2, memory_mib: 300 };
        let line = crate::bench::attempt::line(&qemu.command());
        for words in ["-smp 2", "-m 300", "-kernel /k", "-initrd /i", "reboot=t", "tsc=reliable"] {
            assert!(line.contains(words), "{words} is missing in {line}");
        }
    }
}
