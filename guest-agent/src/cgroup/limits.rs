//! What `linux.resources` means in the files of cgroup v2, as a pure plan.
//!
//! OCI runtime specification, "Linux Container Configuration", section "Control groups". Its
//! values are those of cgroup v1; they are converted as other runtimes do.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::error::{Error, Result};

/// Scheduling period where only a quota is given, in microseconds.
const DEFAULT_CPU_PERIOD: u64 = 100_000;

/// Values for the files of a group, in the order in which they are to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan(Vec<(String, String)>);

impl Plan {
    /// File name and value of each write.
    pub fn writes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(file, value)| (file.as_str(), value.as_str()))
    }

    fn add(&mut self, file: impl Into<String>, value: impl ToString) {
        self.0.push((file.into(), value.to_string()));
    }

    fn add_some(&mut self, file: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.add(file, value);
        }
    }
}

/// Plans the limits.
///
/// # Errors
/// Something is asked for that cgroup v2 does not have, or a value makes no sense.
pub fn plan(resources: &LinuxResources) -> Result<Plan> {
    let mut plan = Plan::default();
    if let Some(memory) = resources.memory() {
        plan_memory(&mut plan, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(&mut plan, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        plan.add("pids.max", if limit > 0 { limit.to_string() } else { "max".into() });
    }
    if let Some(io) = resources.block_io() {
        plan_io(&mut plan, io)?;
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = huge.page_size();
        if size.is_empty() || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!("hugepage size {size:?}")));
        }
        // Pages are reserved before they are used: without the second limit, what is beyond the
        // first kills by a signal instead of failing.
        plan.add(format!("hugetlb.{size}.max"), huge.limit());
        plan.add(format!("hugetlb.{size}.rsvd.max"), huge.limit());
    }
    if resources.network().as_ref().is_some_and(|network| *network != <_>::default()) {
        return Err(unsupported("network"));
    }
    if resources.rdma().as_ref().is_some_and(|rdma| !rdma.is_empty()) {
        return Err(unsupported("rdma"));
    }
    plan_unified(&mut plan, resources)?;
    Ok(plan)
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported(format!("linux.resources.{what}"))
}

fn plan_memory(plan: &mut Plan, memory: &LinuxMemory) -> Result<()> {
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported("memory.disableOOMKiller"));
    }
    if memory.swappiness().is_some() {
        return Err(unsupported("memory.swappiness"));
    }
    for (name, limit) in
        [("memory.kernel", memory.kernel()), ("memory.kernelTCP", memory.kernel_tcp())]
    {
        // -1 is no limit, which is what there is.
        if limit.is_some_and(|limit| limit > 0) {
            return Err(unsupported(name));
        }
    }
    plan.add_some("memory.max", memory.limit().filter(|l| *l != 0).map(bytes));
    plan.add_some("memory.low", memory.reservation().filter(|r| *r != 0).map(bytes));
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        plan.add("memory.swap.max", swap_beside(swap, memory.limit())?);
    }
    Ok(())
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// The specification's swap limit is that of memory and swap together.
fn swap_beside(both: i64, memory: Option<i64>) -> Result<String> {
    if both < 0 {
        return Ok("max".to_owned());
    }
    match memory {
        Some(memory) if (0..=both).contains(&memory) => Ok((both - memory).to_string()),
        Some(-1) => Ok("max".to_owned()),
        _ => Err(Error::Invalid(format!(
            "memory.swap of {both} needs a memory.limit that is not beyond it"
        ))),
    }
}

fn plan_cpu(plan: &mut Plan, cpu: &LinuxCpu) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|r| r != 0)
        || cpu.realtime_period().is_some_and(|p| p != 0)
    {
        return Err(unsupported("cpu.realtimeRuntime"));
    }
    plan.add_some("cpu.idle", cpu.idle());
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        plan.add("cpu.weight", cpu_weight(shares));
    }
    // A burst beyond the quota is refused, so the quota goes first.
    if cpu.quota().is_some_and(|q| q != 0) || cpu.period().is_some_and(|p| p != 0) {
        let quota = match cpu.quota() {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = cpu.period().filter(|p| *p != 0).unwrap_or(DEFAULT_CPU_PERIOD);
        plan.add("cpu.max", format!("{quota} {period}"));
    }
    plan.add_some("cpu.max.burst", cpu.burst());
    let non_empty = |list: &&String| !list.is_empty();
    plan.add_some("cpuset.cpus", cpu.cpus().as_ref().filter(non_empty));
    plan.add_some("cpuset.mems", cpu.mems().as_ref().filter(non_empty));
    Ok(())
}

/// 2..=262144 to 1..=10000.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn plan_io(plan: &mut Plan, io: &LinuxBlockIo) -> Result<()> {
    if io.leaf_weight().is_some_and(|w| w != 0) {
        return Err(unsupported("blockIO.leafWeight"));
    }
    if let Some(weight) = io.weight().filter(|w| *w != 0) {
        plan.add("io.weight", format!("default {}", io_weight(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|w| w != 0) {
            return Err(unsupported("blockIO.weightDevice.leafWeight"));
        }
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let (major, minor, weight) = (device.major(), device.minor(), io_weight(weight));
            plan.add("io.weight", format!("{major}:{minor} {weight}"));
        }
    }
    let throttles = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for device in devices.iter().flatten() {
            plan.add("io.max", throttle(key, device));
        }
    }
    Ok(())
}

/// 10..=1000 to 1..=10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn throttle(key: &str, device: &LinuxThrottleDevice) -> String {
    let rate = match device.rate() {
        0 => "max".to_owned(),
        rate => rate.to_string(),
    };
    format!("{}:{} {key}={rate}", device.major(), device.minor())
}

fn plan_unified(plan: &mut Plan, resources: &LinuxResources) -> Result<()> {
    let Some(unified) = resources.unified() else {
        return Ok(());
    };
    let mut entries: Vec<_> = unified.iter().collect();
    entries.sort();
    for (file, value) in entries {
        let valid = file.contains('.')
            && file.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'));
        if !valid || file.starts_with('.') || file.starts_with("cgroup.") {
            return Err(Error::Invalid(format!("linux.resources.unified: {file:?}")));
        }
        for line in value.lines() {
            plan.add(file.as_str(), line);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(json: &str) -> Result<Vec<(String, String)>> {
        plan(&serde_json::from_str(json).unwrap()).map(|plan| plan.0)
    }

    fn one(json: &str) -> (String, String) {
        let mut all = planned(json).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn nothing_asked_is_nothing_written() {
        assert_eq!(planned("{}").unwrap(), []);
        assert_eq!(planned(r#"{"memory":{"limit":0},"cpu":{"shares":0}}"#).unwrap(), []);
    }

    #[test]
    fn memory_and_swap_are_apart_in_v2() {
        let writes = planned(r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#).unwrap();
        let expected = [("memory.max", "1000"), ("memory.low", "500"), ("memory.swap.max", "500")];
        assert_eq!(writes, expected.map(|(f, v)| (f.to_owned(), v.to_owned())));
        assert!(planned(r#"{"memory":{"limit":1000,"swap":500}}"#).is_err());
        assert!(planned(r#"{"memory":{"swap":500}}"#).is_err());
        assert_eq!(one(r#"{"memory":{"limit":-1}}"#).1, "max");
    }

    #[test]
    fn cpu_shares_become_a_weight() {
        assert_eq!((cpu_weight(2), cpu_weight(1024), cpu_weight(262_144)), (1, 39, 10_000));
        assert_eq!(one(r#"{"cpu":{"quota":50000}}"#).1, "50000 100000");
        assert_eq!(one(r#"{"cpu":{"quota":-1,"period":50000}}"#).1, "max 50000");
        assert_eq!(one(r#"{"cpu":{"cpus":"0-1"}}"#), ("cpuset.cpus".into(), "0-1".into()));
    }

    #[test]
    fn pids_without_limit_are_max() {
        assert_eq!(one(r#"{"pids":{"limit":100}}"#), ("pids.max".into(), "100".into()));
        assert_eq!(one(r#"{"pids":{"limit":-1}}"#).1, "max");
    }

    #[test]
    fn io_is_weighed_and_throttled() {
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
        let throttled =
            one(r#"{"blockIO":{"throttleReadBpsDevice":[{"major":254,"minor":0,"rate":600}]}}"#);
        assert_eq!(throttled, ("io.max".into(), "254:0 rbps=600".into()));
    }

    #[test]
    fn huge_pages_are_limited_when_reserved_and_when_used() {
        let writes = planned(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#).unwrap();
        let files = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"];
        assert_eq!(writes, files.map(|file| (file.to_owned(), "4194304".to_owned())));
        assert!(planned(r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#).is_err());
    }

    #[test]
    fn disks_are_weighed_apart() {
        let one_disk = one(r#"{"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":1000}]}}"#);
        assert_eq!(one_disk, ("io.weight".into(), "8:1 10000".into()));
    }

    #[test]
    fn what_v2_lacks_is_refused_by_name() {
        for json in [
            r#"{"memory":{"swappiness":60}}"#,
            r#"{"memory":{"kernel":1000}}"#,
            r#"{"memory":{"kernelTCP":1000}}"#,
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"cpu":{"realtimeRuntime":1000}}"#,
            r#"{"network":{"classID":1}}"#,
            r#"{"rdma":{"mlx":{"hcaHandles":1}}}"#,
            r#"{"blockIO":{"leafWeight":10}}"#,
        ] {
            assert!(matches!(planned(json), Err(Error::Unsupported(_))), "{json}");
        }
    }

    #[test]
    fn unified_names_files_of_the_group_and_no_others() {
        assert_eq!(one(r#"{"unified":{"memory.high":"1000"}}"#).0, "memory.high");
        for file in ["../memory.high", "cgroup.procs", "cgroup.kill", "a/b.c", "memory", ""] {
            let json = format!(r#"{{"unified":{{"{file}":"1"}}}}"#);
            assert!(planned(&json).is_err(), "{file}");
        }
    }

    proptest! {
        #[test]
        fn weights_stay_in_the_kernels_range(shares: u64, weight: u16) {
            prop_assert!((1..=10_000).contains(&cpu_weight(shares)));
            prop_assert!((1..=10_000).contains(&io_weight(weight)));
        }
    }
}
