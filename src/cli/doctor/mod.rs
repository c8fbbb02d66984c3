//! `ampoule doctor`: what this host has, what it lacks, and the command that mends it.

mod containerd;
mod finding;
mod host_files;
mod jail;
mod mitigations;
mod network;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args as ClapArgs;

use super::{Failure, Global};
use crate::build;
use crate::sandbox::{GuestFiles, layer};
use crate::vmm::probe::{KvmReality, probe};
use finding::{Finding, Group};
use host_files::HostFiles;

/// Say what this host has and lacks, and what mends it
///
/// Exit status: 0 where containers can be run, else 1.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  ampoule doctor\n  \
    ampoule doctor --probe")]
pub struct Args {
    /// Print only what KVM is: real, interpreted, absent or forbidden
    #[arg(long)]
    probe: bool,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, Failure> {
    let kvm = probe();
    if args.probe {
        println!("{}", kvm.word());
        return Ok(ExitCode::SUCCESS);
    }
    let places = global.places();
    let findings = [
        ("KVM", of_kvm(&kvm)),
        ("guest", of_guest()),
        ("images and logs", of_folder(&places.data)),
        ("state", of_folder(&places.state)),
        ("memory", of_memory(fs::read_to_string("/proc/meminfo"))),
        ("mke2fs", of_mke2fs(layer::mke2fs())),
        ("buildah", of_buildah(build::builder())),
    ];
    let host = HostFiles::here();
    let groups = [
        Group::new(None, findings),
        network::look(&host),
        containerd::look(&host, containerd_version),
        mitigations::look(&host),
        jail::look(&host),
    ];
    for group in &groups {
        print!("{}", group.told());
    }
    let bad = groups.iter().any(Group::is_bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a containerd says of itself.
fn containerd_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // containerd github.com/containerd/containerd 1.7.24 …
    text.split_whitespace().nth(2).map(str::to_owned)
}

fn of_kvm(kvm: &KvmReality) -> Finding {
    match kvm {
        KvmReality::Real { ips } => Finding::Good(format!(
            "/dev/kvm runs guest kernels at {:.0} million instructions a second",
            ips / 1e6
        )),
        KvmReality::Interpreted { ips } => Finding::Bad(
            format!(
                "/dev/kvm interprets guest kernels, at {:.1} million instructions a second: Linux \
                 does not boot on it in useful time",
                ips / 1e6
            ),
            "use a host with hardware virtualization, or try things in tools/kvm-host",
        ),
        KvmReality::NotPermitted => Finding::Bad(
            "this user may not open /dev/kvm".into(),
            "run as root, or join its group: usermod -aG kvm \"$USER\", then log in again",
        ),
        KvmReality::Absent(why) => Finding::Bad(
            why.clone(),
            "load the module (modprobe kvm_intel or kvm_amd), switch virtualization on in the \
             firmware or the hypervisor, or try things in tools/kvm-host",
        ),
    }
}

fn of_guest() -> Finding {
    match GuestFiles::find(None) {
        Ok(files) => {
            Finding::Good(format!("{} and {}", files.kernel.display(), files.initramfs.display()))
        }
        Err(error) => Finding::Bad(
            error.to_string(),
            "run tools/build-kernel and tools/build-guest in ampoule's source",
        ),
    }
}

/// Whether the folder, or the nearest one above it that is there, takes files of this user.
fn of_folder(folder: &Path) -> Finding {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match nix::unistd::access(there, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Finding::Good(folder.display().to_string()),
        Err(errno) => Finding::Bad(
            format!("{} cannot be written: {}", there.display(), errno.desc()),
            "run as root, or choose folders with --root and --state",
        ),
    }
}

fn of_memory(meminfo: io::Result<String>) -> Finding {
    let kib = meminfo.ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    match kib {
        Some(kib) if kib >= 256 << 10 => Finding::Good(format!("{} MiB available", kib >> 10)),
        Some(kib) => Finding::Weak(
            format!("only {} MiB available", kib >> 10),
            "end what is not needed, or run smaller sandboxes (-m)",
        ),
        None => Finding::Weak(
            "/proc/meminfo does not tell what is available".into(),
            "mount -t proc proc /proc",
        ),
    }
}

/// Containers that are not removed at their end write to a disk.
fn of_mke2fs(program: Option<PathBuf>) -> Finding {
    match program {
        Some(program) => Finding::Good(program.display().to_string()),
        None => Finding::Weak(
            "there is none: what containers write cannot be kept on a disk".into(),
            "apt-get install e2fsprogs, or set layer = \"tmpfs\" in [storage] of /etc/ampoule/config.toml",
        ),
    }
}

/// Only `ampoule build` needs it.
fn of_buildah(program: Option<PathBuf>) -> Finding {
    match program {
        Some(program) => Finding::Good(program.display().to_string()),
        None => Finding::Weak(
            "there is none: `ampoule build` cannot read a Dockerfile".into(),
            "apt-get install buildah",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_comes_with_what_mends_it() {
        for kvm in [KvmReality::Absent("none".into()), KvmReality::NotPermitted] {
            assert!(matches!(of_kvm(&kvm), Finding::Bad(..)));
        }
        assert!(matches!(of_kvm(&KvmReality::Interpreted { ips: 1e6 }), Finding::Bad(..)));
        assert!(matches!(of_kvm(&KvmReality::Real { ips: 1e9 }), Finding::Good(_)));
    }

    #[test]
    fn little_memory_is_weak() {
        let of = |kib: u64| of_memory(Ok(format!("MemTotal: 9 kB\nMemAvailable: {kib} kB\n")));
        assert!(matches!(of(1 << 20), Finding::Good(_)));
        assert!(matches!(of(1 << 10), Finding::Weak(..)));
        assert!(matches!(of_memory(Ok(String::new())), Finding::Weak(..)));
    }
}
