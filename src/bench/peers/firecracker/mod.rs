//! Firecracker with the sandbox's own kernel and initramfs: booted, or loaded from a snapshot.

mod api;
mod cold;
mod warm;

use std::path::Path;

use serde_json::{Value, json};

use super::{Setting, Unready};
use crate::bench::entrant::{Entrant, Span, Subject};
use crate::bench::interrupt::Interrupt;
use crate::bench::sandboxes::Mode;
use crate::sandbox::GuestFiles;
use crate::vmm::boot::cmdline;

/// An entrant for each of its two ways of starting that sandboxes are started in, too.
pub fn prepare(
    program: &Path,
    version: String,
    setting: &Setting<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Entrant>, Unready> {
    let options = setting.options;
    let guest = GuestFiles::find(options.kernel.as_deref())?;
    let machine = machine(&guest, options.shape().vcpus, options.shape().memory_mib);
    let entrant = |name: &str, does, subject: Box<dyn Subject>| {
        let (name, version) = (name.to_owned(), version.clone());
        Entrant { name, does, version, span: Span::Whole, ours: false, subject }
    };
    let mut entrants = Vec::new();
    if setting.modes.contains(&Mode::Cold) {
        let cold = cold::Cold::new(program, setting.scratch, &machine)?;
        entrants.push(entrant("firecracker cold", cold::DOES, Box::new(cold)));
    }
    if setting.modes.iter().any(|mode| matches!(mode, Mode::Warm | Mode::Fork)) {
        let warm = warm::Warm::new(program, setting.scratch, machine, interrupt)?;
        entrants.push(entrant("firecracker warm", warm::DOES, Box::new(warm)));
    }
    Ok(entrants)
}

/// Its configuration file: the machine of a sandbox, as far as both have the same devices.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_machines_are_alike() {
        let guest = GuestFiles { kernel: "/k".into(), initramfs: "/i".into() };
        let machine = machine(&guest, 2, 300);
        assert_eq!(machine["boot-source"]["kernel_image_path"], "/k");
        assert_eq!(machine["boot-source"]["initrd_path"], "/i");
        assert_eq!(machine["machine-config"], json!({ "vcpu_count": 2, "mem_size_mib": 300 }));
        let words = machine["boot-source"]["boot_args"].as_str().unwrap();
        assert!(words.contains("reboot=k") && words.contains("quiet"), "{words}");
    }
}
