//! Firecracker with the sandbox's own kernel and initramfs, booted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Setting, Unready};
use crate::bench::attempt::{Attempt, AttemptError};
use crate::bench::entrant::{Entrant, Start, Subject};
use crate::bench::interrupt::Interrupt;
use crate::bench::sandboxes::Mode;
use crate::sandbox::GuestFiles;
use crate::vmm::boot::cmdline;

/// One that boots.
#[derive(Debug)]
struct Cold {
    program: PathBuf,
    config: PathBuf,
}

/// An entrant for each way of starting that sandboxes are started in and that it has.
pub fn prepare(
    program: &Path,
    version: String,
    setting: &Setting<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Entrant>, Unready> {
    let _ = (interrupt, Mode::Cold);
    let options = setting.options;
    let guest = GuestFiles::find(options.kernel.as_deref())?;
    let config = setting.scratch.join("firecracker.json");
    let machine = machine(&guest, options.vcpus(), options.machine_mib());
    fs::write(&config, machine.to_string())?;
    let does = "Firecracker: boots the same guest until its agent finds no host; runs no container";
    let subject = Box::new(Cold { program: program.to_owned(), config });
    Ok(vec![Entrant { name: "firecracker cold".into(), does, version, ours: false, subject }])
}

fn machine(guest: &GuestFiles, vcpus: u8, memory_mib: u32) -> Value {
    json!({
        "boot-source": {
            "kernel_image_path": guest.kernel,
            "initrd_path": guest.initramfs,
            "boot_args": cmdline::silent(),
        },
        "drives": [],
        "machine-config": { "vcpu_count": vcpus, "mem_size_mib": memory_mib },
        "entropy": {},
    })
}

impl Subject for Cold {
    fn start(&self, _label: &str, interrupt: &Interrupt) -> Result<Start, AttemptError> {
        let mut command = Command::new(&self.program);
        command.arg("--no-api").arg("--config-file").arg(&self.config);
        let total_us = Attempt::of(command).run(interrupt)?.length_us();
        Ok(Start { total_us, phases: Vec::new() })
    }
}
