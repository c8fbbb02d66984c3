use super::super::host_files::testing::host;
use super::*;

fn weak(finding: &Finding) -> Option<&str> {
    match finding {
        Finding::Weak(words, _) => Some(words),
        _ => None,
    }
}

#[test]
fn smt_and_ksm_are_told() {
    let of = |value| host(&[("sys/devices/system/cpu/smt/active", value)]);
    assert!(weak(&smt(&of("0").1)).is_none());
    assert!(weak(&smt(&of("1").1)).is_some());
    assert!(weak(&smt(&host(&[]).1)).unwrap().contains("does not tell"));
    let of = |value| host(&[("sys/kernel/mm/ksm/run", value)]);
    assert!(weak(&ksm(&of("0").1)).is_none());
    assert!(weak(&ksm(&of("1").1)).is_some());
    assert!(weak(&ksm(&of("2").1)).is_none());
    assert!(weak(&ksm(&host(&[]).1)).is_none());
}

#[test]
fn of_a_weakness_that_is_dealt_with_nothing_is_told() {
    for state in [
        "Not affected",
        "Mitigation: PTI",
        "Mitigation: usercopy/swapgs barriers and __user pointer sanitization",
        "Mitigation: Retpolines; IBPB: conditional; IBRS_FW; STIBP: disabled; RSB filling",
        "KVM: Mitigation: Split huge pages",
        "Mitigation: PTE Inversion; VMX: cache flushes, SMT disabled",
    ] {
        assert_eq!(open_weakness("any", state), None, "{state}");
    }
}

#[test]
fn what_is_open_of_a_weakness_is_told_with_what_mends_it() {
    for (name, state, part, mend) in [
        (
            "mds",
            "Vulnerable: Clear CPU buffers attempted, no microcode",
            "no microcode",
            "microcode",
        ),
        ("mds", "Mitigation: Clear CPU buffers; SMT vulnerable", "SMT vulnerable", "nosmt"),
        (
            "l1tf",
            "Mitigation: PTE Inversion; VMX: conditional cache flushes, SMT vulnerable",
            "SMT vulnerable",
            "nosmt",
        ),
        ("l1tf", "Mitigation: PTE Inversion; VMX: vulnerable", "VMX: vulnerable", "l1tf=full"),
        ("itlb_multihit", "KVM: Vulnerable", "KVM: Vulnerable", "nx_huge_pages"),
        (
            "spectre_v2",
            "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; BHI: Vulnerable",
            "BHI: Vulnerable",
            "mitigations=off",
        ),
        ("spec_store_bypass", "Vulnerable", "Vulnerable", "spec_store_bypass_disable"),
        ("srbds", "Unknown: Dependent on hypervisor status", "Unknown", "microcode"),
    ] {
        let finding = open_weakness(name, state);
        let Some(Finding::Weak(words, mends)) = finding else {
            panic!("{name}: {state}: {finding:?}")
        };
        assert!(words.contains(part) && mends.contains(mend), "{words} → {mends}");
    }
}

#[test]
fn a_processor_without_open_weaknesses_takes_one_line() {
    let at = |name: &str| format!("{VULNERABILITIES}/{name}");
    let (_root, files) = host(&[(&at("mds"), "Not affected"), (&at("l1tf"), "Not affected")]);
    let told = processor(&files);
    assert_eq!(told.len(), 1);
    assert!(matches!(&told[0].1, Finding::Good(words) if words.starts_with("2 weaknesses")));
    let (_root, files) = host(&[(&at("mds"), "Vulnerable"), (&at("l1tf"), "Not affected")]);
    let told = processor(&files);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "processor, mds");
    assert!(weak(&processor(&host(&[]).1)[0].1).is_some());
}

#[test]
fn the_l1_cache_matters_where_it_can_be_read() {
    let of = |l1tf, flush| {
        l1_flush(
            &host(&[
                (&format!("{VULNERABILITIES}/l1tf"), l1tf),
                ("sys/module/kvm_intel/parameters/vmentry_l1d_flush", flush),
            ])
            .1,
        )
    };
    assert_eq!(of("Not affected", "never"), None);
    assert!(weak(&of("Mitigation: PTE Inversion", "never").unwrap()).is_some());
    assert!(weak(&of("Mitigation: PTE Inversion", "cond").unwrap()).is_some());
    assert!(weak(&of("Mitigation: PTE Inversion", "always").unwrap()).is_none());
    assert_eq!(l1_flush(&host(&[]).1), None);
}

#[test]
fn swap_is_in_memory_encrypted_or_told() {
    let with = |device: &str, more: &[(&str, &str)]| {
        let table = format!("Filename Type Size Used Priority\n{device} partition 99 0 -2");
        let files = [&[("proc/swaps", table.as_str())], more].concat();
        let (_root, files) = host(&files);
        weak(&swap(&files)).map(str::to_owned)
    };
    assert_eq!(weak(&swap(&host(&[("proc/swaps", "Filename Type")]).1)), None);
    assert_eq!(weak(&swap(&host(&[]).1)), None);
    assert!(with("/dev/sda2", &[]).unwrap().contains("/dev/sda2"));
    assert!(with("/swapfile", &[]).unwrap().contains("/swapfile"));
    assert_eq!(with("/dev/zram0", &[]), None);
    assert_eq!(with("/dev/zram0", &[("sys/block/zram0/backing_dev", "none")]), None);
    assert!(with("/dev/zram0", &[("sys/block/zram0/backing_dev", "/dev/sda3")]).is_some());
    assert_eq!(with("/dev/dm-1", &[("sys/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap")]), None);
    assert!(with("/dev/dm-1", &[("sys/block/dm-1/dm/uuid", "LVM-abc")]).is_some());
}

#[test]
fn the_kernel_log_is_for_root_alone() {
    let of = |value| host(&[("proc/sys/kernel/dmesg_restrict", value)]);
    assert!(weak(&kernel_log(&of("1").1)).is_none());
    assert!(weak(&kernel_log(&of("0").1)).is_some());
    assert!(weak(&kernel_log(&host(&[]).1)).is_some());
}

#[test]
fn this_host_is_told_of_without_fail() {
    assert!(look(&HostFiles::here()).findings.len() >= 5);
}
