//! What CPUID tells the guest: what KVM supports, with the topology of this machine, one package
//! of as many single-threaded cores as there are vCPUs.
//!
//! Left out of what KVM offers:
//! * the performance monitoring unit: nobody in a sandbox profiles the host, and the guest's kernel
//!   probes it at every start;
//! * virtual machines inside the guest (VMX, SVM): KVM's code for them is large, takes what the guest
//!   writes for its word, and nobody in a sandbox needs it;
//! * asynchronous page faults: a guest restored from a snapshot can wait for one that the old
//!   host process took along.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};
use vmm_sys_util::fam;

const VENDOR: u32 = 0;
const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const PERFORMANCE_MONITORING: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const KVM_FEATURES: u32 = 0x4000_0001;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
/// The processor's name.
const BRAND: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
const EXTENDED_SIZES: u32 = 0x8000_0008;
const SVM_FEATURES: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE_MONITORING: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// FEATURES, ecx.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// FEATURES, edx: the package holds more than one logical processor.
const MULTIPLE: u32 = 1 << 28;
/// EXTENDED_FEATURES, ecx.
const SVM: u32 = 1 << 2;
const CORES_NOT_THREADS: u32 = 1 << 1;
const AMD_CORE_COUNTERS: u32 = 1 << 23;
/// KVM_FEATURES, eax: ASYNC_PF, ASYNC_PF_VMEXIT, ASYNC_PF_INT.
const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// TOPOLOGY, ecx bits 15:8.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// CPUID of a machine; only the ids differ from vCPU to vCPU.
///
/// Equal on all processors of a host, whichever KVM was asked on: two that differ are of hosts
/// between which no guest can move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cpuid {
    entries: Vec<kvm_cpuid_entry2>,
}

impl Cpuid {
    /// CPUID of a machine of `vcpus` processors on what KVM `supported`. `tsc_deadline` says
    /// whether KVM's local APIC has the TSC deadline mode; without it a guest that has no PIT
    /// cannot find a timer frequency.
    pub fn new(supported: &[kvm_cpuid_entry2], vcpus: u8, tsc_deadline: bool) -> Self {
        let amd = is_amd(supported);
        let max_leaf = supported.iter().find(|e| e.function == VENDOR).map_or(0, |e| e.eax);
        let mut entries: Vec<_> = supported
            .iter()
            .filter(|e| !matches!(e.function, TOPOLOGY | TOPOLOGY_V2 | AMD_TOPOLOGY_V2))
            .copied()
            .collect();
        for entry in &mut entries {
            patch(entry, vcpus, amd, tsc_deadline);
        }
        if max_leaf >= TOPOLOGY {
            entries.extend(topology(vcpus));
        }
        Self { entries }
    }

    /// The processor's own name, where it has one.
    pub fn brand(&self) -> String {
        let mut bytes = Vec::with_capacity(48);
        for function in BRAND {
            if let Some(e) = self.entries.iter().find(|e| e.function == function) {
                bytes.extend([e.eax, e.ebx, e.ecx, e.edx].map(u32::to_le_bytes).concat());
            }
        }
        let name = String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned();
        if name.is_empty() { "a processor without a name".into() } else { name }
    }

    /// Leaves in which two hosts differ, for people who look for the reason.
    pub fn differences(&self, other: &Self) -> Vec<u32> {
        let of = |all: &Self, function: u32| -> Vec<kvm_cpuid_entry2> {
            all.entries.iter().filter(|e| e.function == function).copied().collect()
        };
        let mut functions: Vec<u32> =
            self.entries.iter().chain(&other.entries).map(|e| e.function).collect();
        functions.sort_unstable();
        functions.dedup();
        functions.retain(|function| of(self, *function) != of(other, *function));
        functions
    }

    /// CPUID of vCPU `id`, whose APIC id is the same number.
    pub fn of_vcpu(&self, id: u8) -> Result<CpuId, fam::Error> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            match entry.function {
                FEATURES => entry.ebx = (entry.ebx & 0x00ff_ffff) | (u32::from(id) << 24),
                TOPOLOGY => entry.edx = id.into(),
                AMD_TOPOLOGY => {
                    entry.eax = id.into();
                    entry.ebx = id.into();
                    entry.ecx = 0;
                }
                _ => {}
            }
        }
        CpuId::from_entries(&entries)
    }
}

fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let Some(vendor) = entries.iter().find(|e| e.function == VENDOR) else {
        return false;
    };
    let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
    name == b"AuthenticAMD" || name == b"HygonGenuine"
}

/// Bits of an APIC id that number the cores.
fn core_bits(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

/// What is the same on all vCPUs.
fn patch(entry: &mut kvm_cpuid_entry2, vcpus: u8, amd: bool, tsc_deadline: bool) {
    let ids = 1 << core_bits(vcpus);
    match entry.function {
        FEATURES => {
            entry.ecx |= HYPERVISOR;
            set(&mut entry.ecx, VMX, false);
            set(&mut entry.ecx, TSC_DEADLINE, tsc_deadline);
            // The highest byte is the id of the processor that KVM was asked on.
            entry.ebx = (entry.ebx & 0x0000_ffff) | (ids << 16);
            set(&mut entry.edx, MULTIPLE, vcpus > 1);
        }
        CACHES => entry.eax = (shared(entry.eax, ids) & 0x03ff_ffff) | ((ids - 1) << 26),
        PERFORMANCE_MONITORING | AMD_PERFORMANCE_MONITORING | SVM_FEATURES => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        KVM_FEATURES => entry.eax &= !ASYNC_PAGE_FAULTS,
        EXTENDED_FEATURES if amd => {
            set(&mut entry.ecx, SVM, false);
            set(&mut entry.ecx, CORES_NOT_THREADS, vcpus > 1);
            set(&mut entry.ecx, AMD_CORE_COUNTERS, false);
        }
        EXTENDED_SIZES if amd => {
            entry.ecx = (core_bits(vcpus) << 12) | (u32::from(vcpus) - 1);
        }
        AMD_CACHES => entry.eax = shared(entry.eax, ids),
        AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

/// A cache's eax with the number of processors that share it: all share level 3, none the others.
fn shared(eax: u32, ids: u32) -> u32 {
    let level = (eax >> 5) & 7;
    let sharing = if level >= 3 { ids - 1 } else { 0 };
    (eax & !0x03ff_c000) | (sharing << 14)
}

/// Extended topology: one thread a core, all cores in one package.
fn topology(vcpus: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, bits: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: processors,
        ecx: kind | index,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, core_bits(vcpus), vcpus.into(), LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..Default::default() }
    }

    fn amd() -> Vec<kvm_cpuid_entry2> {
        let mut vendor = entry(VENDOR, 0x10);
        vendor.ebx = u32::from_le_bytes(*b"Auth");
        vendor.edx = u32::from_le_bytes(*b"enti");
        vendor.ecx = u32::from_le_bytes(*b"cAMD");
        let mut kvm = entry(KVM_FEATURES, u32::MAX);
        kvm.edx = 1;
        vec![
            vendor,
            entry(FEATURES, 0),
            entry(PERFORMANCE_MONITORING, 7),
            kvm,
            entry(EXTENDED_FEATURES, 0),
            entry(EXTENDED_SIZES, 0),
            entry(AMD_CACHES, 3 << 5),
            entry(AMD_TOPOLOGY, 0),
            entry(AMD_TOPOLOGY_V2, 99),
        ]
    }

    fn get(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .expect("leaf is there")
    }

    #[test]
    fn ids_differ_from_vcpu_to_vcpu() {
        let cpuid = Cpuid::new(&amd(), 3, true);
        for id in 0..3u8 {
            let cpuid = cpuid.of_vcpu(id).unwrap();
            assert_eq!(get(&cpuid, FEATURES, 0).ebx >> 24, u32::from(id));
            assert_eq!(get(&cpuid, TOPOLOGY, 1).edx, u32::from(id));
            assert_eq!(get(&cpuid, AMD_TOPOLOGY, 0).eax, u32::from(id));
        }
    }

    #[test]
    fn counts_are_those_of_the_machine() {
        for (vcpus, bits) in [(1u8, 0), (2, 1), (3, 2), (4, 2), (32, 5)] {
            let cpuid = Cpuid::new(&amd(), vcpus, true).of_vcpu(0).unwrap();
            assert_eq!(get(&cpuid, TOPOLOGY, 1).eax, bits);
            assert_eq!(get(&cpuid, TOPOLOGY, 1).ebx, u32::from(vcpus));
            assert_eq!((get(&cpuid, FEATURES, 0).ebx >> 16) & 0xff, 1 << bits);
            assert_eq!(get(&cpuid, FEATURES, 0).edx & MULTIPLE != 0, vcpus > 1);
            let sizes = get(&cpuid, EXTENDED_SIZES, 0).ecx;
            assert_eq!((sizes & 0xff, sizes >> 12), (u32::from(vcpus) - 1, bits));
            assert_eq!((get(&cpuid, AMD_CACHES, 0).eax >> 14) & 0xfff, (1 << bits) - 1);
        }
    }

    #[test]
    fn what_is_left_out_is_gone() {
        let cpuid = Cpuid::new(&amd(), 1, false).of_vcpu(0).unwrap();
        assert_eq!(get(&cpuid, PERFORMANCE_MONITORING, 0).eax, 0);
        assert_eq!(get(&cpuid, KVM_FEATURES, 0).eax & ASYNC_PAGE_FAULTS, 0);
        assert_eq!(get(&cpuid, FEATURES, 0).ecx & TSC_DEADLINE, 0);
        assert!(cpuid.as_slice().iter().all(|e| e.function != AMD_TOPOLOGY_V2));
    }

    #[test]
    fn there_are_no_virtual_machines_in_the_guest() {
        let mut supported = amd();
        for entry in &mut supported {
            entry.ecx = if matches!(entry.function, VENDOR) { entry.ecx } else { u32::MAX };
        }
        supported.push(entry(SVM_FEATURES, 1));
        let cpuid = Cpuid::new(&supported, 1, true).of_vcpu(0).unwrap();
        assert_eq!(get(&cpuid, FEATURES, 0).ecx & VMX, 0);
        assert_eq!(get(&cpuid, EXTENDED_FEATURES, 0).ecx & SVM, 0);
        assert_eq!(get(&cpuid, SVM_FEATURES, 0).eax, 0);
    }

    #[test]
    fn topology_is_not_invented_below_its_leaf() {
        let mut supported = amd();
        supported[0].eax = 4;
        let cpuid = Cpuid::new(&supported, 2, true).of_vcpu(1).unwrap();
        assert!(cpuid.as_slice().iter().all(|e| e.function != TOPOLOGY));
    }
}
