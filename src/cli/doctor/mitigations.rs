//! What of this host lets one sandbox learn of another, past the walls (docs/security.md).

use super::finding::{Finding, Group};
use super::host_files::HostFiles;

const VULNERABILITIES: &str = "sys/devices/system/cpu/vulnerabilities";

/// Everything that was looked at.
pub fn look(host: &HostFiles) -> Group {
    let mut findings = vec![("SMT".to_owned(), smt(host)), ("KSM".to_owned(), ksm(host))];
    findings.extend(processor(host));
    findings.extend(l1_flush(host).map(|finding| ("KVM, L1 cache".to_owned(), finding)));
    findings.push(("swap".to_owned(), swap(host)));
    findings.push(("kernel log".to_owned(), kernel_log(host)));
    let heading = Some("between sandboxes whose owners do not trust each other");
    Group { heading, findings }
}

/// Threads of one core share its caches and buffers.
fn smt(host: &HostFiles) -> Finding {
    match host.read("sys/devices/system/cpu/smt/active").as_deref() {
        Some("0") => Finding::Good("off: no two sandboxes run on one core at a time".into()),
        Some("1") => Finding::Weak(
            "on: two sandboxes may run on one core at a time and watch each other's timing".into(),
            "boot the host with nosmt, or keep each owner's sandboxes on cores of their own",
        ),
        _ => Finding::Weak(
            "the kernel does not tell whether it is on".into(),
            "boot the host with nosmt, or look into its firmware or hypervisor",
        ),
    }
}

/// Merged pages tell, by the time that a write takes, what others have in memory.
fn ksm(host: &HostFiles) -> Finding {
    match host.read("sys/kernel/mm/ksm/run").as_deref() {
        None => Finding::Good("the kernel merges no pages".into()),
        Some("0" | "2") => Finding::Good("off".into()),
        Some(_) => Finding::Weak(
            "on: ampoule lets no guest's memory be merged, but other programs of this host may"
                .into(),
            "echo 2 > /sys/kernel/mm/ksm/run",
        ),
    }
}

/// A line for each weakness of the processor that is open, else one for all.
fn processor(host: &HostFiles) -> Vec<(String, Finding)> {
    let names = host.names(VULNERABILITIES);
    if names.is_empty() {
        let finding = Finding::Weak(
            "the kernel does not tell the processor's weaknesses".into(),
            "use a kernel with CONFIG_CPU_MITIGATIONS",
        );
        return vec![("processor".into(), finding)];
    }
    let known = names.len();
    let open: Vec<_> = names
        .into_iter()
        .filter_map(|name| {
            let state = host.read(format!("{VULNERABILITIES}/{name}"));
            let finding = open_weakness(&name, state.as_deref().unwrap_or("Unknown: unreadable"))?;
            Some((format!("processor, {name}"), finding))
        })
        .collect();
    if open.is_empty() {
        let words = format!("{known} weaknesses are known to the kernel, none is open");
        return vec![("processor".into(), Finding::Good(words))];
    }
    open
}

/// What is open of a weakness, by the kernel's words: parts of what it does against it, and of what
/// that leaves open, are divided by `;` and `,`.
fn open_weakness(name: &str, state: &str) -> Option<Finding> {
    let whole = state.starts_with("Vulnerable") || state.starts_with("Unknown");
    let is_open = |part: &&str| part.to_ascii_lowercase().contains("vulnerable");
    let part = state.split([';', ',']).map(str::trim).find(is_open);
    let part = if whole { state } else { part? };
    let mend = match name {
        _ if part.contains("SMT") => "boot the host with mitigations=auto,nosmt",
        "itlb_multihit" => "boot the host with kvm.nx_huge_pages=auto",
        "l1tf" => "boot the host with l1tf=full,force",
        "spec_store_bypass" => {
            "update microcode and kernel, and boot the host without \
             spec_store_bypass_disable=off: programs under a system call filter, and those that \
             ask, are protected then"
        }
        _ => "update microcode and kernel, and boot the host without mitigations=off",
    };
    Some(Finding::Weak(part.to_owned(), mend))
}

/// Where the L1 cache can be read from guests, it is to be empty when one is entered.
fn l1_flush(host: &HostFiles) -> Option<Finding> {
    let l1tf = host.read(format!("{VULNERABILITIES}/l1tf"))?;
    let flush = host.read("sys/module/kvm_intel/parameters/vmentry_l1d_flush")?;
    if l1tf.starts_with("Not affected") {
        return None;
    }
    let words = format!("vmentry_l1d_flush is {flush:?}");
    Some(match flush.as_str() {
        "always" => Finding::Good(format!("{words}: emptied at every entry into a guest")),
        "not required" => Finding::Good(words),
        _ => Finding::Weak(
            format!("{words}: guests may find there what the host or another guest left"),
            "boot the host with kvm-intel.vmentry_l1d_flush=always",
        ),
    })
}

/// Guests' memory that is swapped out lies on a disk.
fn swap(host: &HostFiles) -> Finding {
    let Some(swaps) = host.read("proc/swaps") else {
        return Finding::Good("the kernel does not swap".into());
    };
    let mut devices = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    match devices.find(|device| !stays_secret(host, device)) {
        None => Finding::Good("none, in memory, or encrypted".into()),
        Some(device) => Finding::Weak(
            format!("guests' memory may be written to {device} as it is"),
            "swapoff -a, or swap to zram or to a dm-crypt device with a random key",
        ),
    }
}

/// Whether what is swapped to this device is in memory, or encrypted.
fn stays_secret(host: &HostFiles, device: &str) -> bool {
    let Some(name) = device.strip_prefix("/dev/").filter(|name| !name.contains('/')) else {
        return false;
    };
    if name.starts_with("zram") {
        let behind = host.read(format!("sys/block/{name}/backing_dev"));
        return behind.is_none_or(|behind| behind == "none");
    }
    let kind = host.read(format!("sys/block/{name}/dm/uuid"));
    kind.is_some_and(|kind| kind.starts_with("CRYPT-"))
}

/// It has addresses of the kernel's, and what drivers say of devices.
fn kernel_log(host: &HostFiles) -> Finding {
    match host.read("proc/sys/kernel/dmesg_restrict").as_deref() {
        Some("1") => Finding::Good("for root alone".into()),
        _ => Finding::Weak(
            "any user, and any program that breaks out, may read it".into(),
            "sysctl -w kernel.dmesg_restrict=1",
        ),
    }
}

#[cfg(test)]
mod tests;
