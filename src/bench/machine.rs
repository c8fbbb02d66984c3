//! The machine that a benchmark ran on, as far as it bears on the figures.

use std::fs;
use std::num::NonZero;
use std::thread;

use serde::Serialize;

use crate::vmm::probe::{KvmReality, probe};

/// What an emulated processor calls itself to its hypervisor's guests.
const EMULATED: &[u8; 12] = b"TCGTCGTCGTCG";

/// CPUID leaf of the hypervisor's signature, where the processor says that there is one.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// What KVM's times are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kvm {
    /// Guests run on the processor.
    Real,
    /// Guests run on a processor made of software: ratios mean something, times nothing.
    Software,
    /// The guest's kernel code is interpreted: Linux does not boot in useful time.
    Interpreted,
    /// There is none that this user may use.
    None,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Model of its first processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Release of its kernel.
    pub kernel: String,
    /// What its KVM is.
    pub kvm: Kvm,
    /// Frequency governor of its first processor, where it tells.
    pub governor: Option<String>,
    /// Mean number of programs that wanted to run in the minute before.
    pub load: f64,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: thread::available_parallelism().map_or(1, NonZero::get),
            memory_mib: memory_mib(&read("/proc/meminfo").unwrap_or_default()),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            kvm: kvm(&probe(), is_emulated()),
            governor: governor.map(|text| text.trim().to_owned()),
            load: first_number(&read("/proc/loadavg").unwrap_or_default()).unwrap_or(0.0),
        }
    }
}

fn kvm(reality: &KvmReality, emulated: bool) -> Kvm {
    match reality {
        KvmReality::Real { .. } if emulated => Kvm::Software,
        KvmReality::Real { .. } => Kvm::Real,
        KvmReality::Interpreted { .. } => Kvm::Interpreted,
        KvmReality::Absent(_) | KvmReality::NotPermitted => Kvm::None,
    }
}

/// Value of the first `name: value` line of that name.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn memory_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|value| value.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib >> 10)
}

/// Whether the processor is one of QEMU's translator.
fn is_emulated() -> bool {
    use std::arch::x86_64::__cpuid;
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    // SAFETY: every x86-64 processor has the instruction.
    let (first, signature) = unsafe { (__cpuid(1), __cpuid(HYPERVISOR_LEAF)) };
    let has_hypervisor = first.ecx & 1 << 31 != 0;
    let words = [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes);
    has_hypervisor && words.as_flattened() == EMULATED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_describes_itself() {
        let machine = Machine::this();
        assert!(machine.cpus > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }

    #[test]
    fn kernel_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU: fast\n\nmodel name\t: other\n";
        assert_eq!(field(cpuinfo, "model name"), Some("Some CPU: fast"));
        assert_eq!(memory_mib("MemTotal:       2097152 kB\n"), 2048);
        assert_eq!(memory_mib(""), 0);
        assert_eq!(first_number("1.25 0.5 0.1 1/100 7\n"), Some(1.25));
    }

    #[test]
    fn an_emulated_processors_kvm_is_software() {
        let real = KvmReality::Real { ips: 1e9 };
        assert_eq!(kvm(&real, true), Kvm::Software);
        assert_eq!(kvm(&real, false), Kvm::Real);
        assert_eq!(kvm(&KvmReality::Interpreted { ips: 1e6 }, false), Kvm::Interpreted);
        assert_eq!(kvm(&KvmReality::NotPermitted, true), Kvm::None);
    }
}
