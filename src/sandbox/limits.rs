//! What a container may take: limits that its guest keeps, and the machine that is made for them.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{
    LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType,
    Spec,
};
use serde::{Deserialize, Serialize};

use super::options::Options;

/// Period of a CPU quota in microseconds (docker's).
const CPU_PERIOD: u64 = 100_000;

/// Most processors that a list may name, those that it names twice included.
const MAX_LISTED: usize = 4096;

/// Where POSIX shared memory is.
const SHM: &str = "/dev/shm";

/// Why limits cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// processors that the host does not have
    #[error("--cpuset-cpus: the machine cannot run on processors {0:?} of this host")]
    Processors(Vec<usize>, #[source] Errno),
    /// the host's kernel
    #[error("cannot ask what processors of this host the machine may run on")]
    Affinity(#[source] Errno),
}

/// Limits beside those of CPUs and memory, in the words of `docker run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processors of the host that the machine runs on.
    pub cpuset: Vec<usize>,
    /// Weight among the groups of the guest.
    pub cpu_shares: Option<u64>,
    /// Microseconds of a period.
    pub cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period.
    pub cpu_quota: Option<i64>,
    /// Memory and swap together, in bytes; -1 for any.
    pub memory_swap: Option<i64>,
    /// Memory that is taken last, in bytes.
    pub memory_reservation: Option<u64>,
    /// Processes and threads; -1 for any.
    pub pids: Option<i64>,
    /// Limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// How readily processes are killed for want of memory.
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Parameters of the kernel.
    pub sysctls: BTreeMap<String, String>,
}

/// A limit of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    /// Which.
    pub kind: PosixRlimitType,
    /// What holds.
    pub soft: u64,
    /// What it can be raised to.
    pub hard: u64,
}

impl Limits {
    /// CPUs that the machine has to have; none where nothing says.
    pub fn cpus(&self, cpus: Option<f64>) -> Option<f64> {
        // Far below what a double holds exactly; beyond it the machine has its most vCPUs.
        #[allow(clippy::cast_precision_loss)]
        let by_quota = self.cpu_quota.filter(|quota| *quota > 0).map(|quota| {
            quota as f64 / self.cpu_period.filter(|period| *period > 0).unwrap_or(CPU_PERIOD) as f64
        });
        #[allow(clippy::cast_precision_loss)]
        let listed = (!self.cpuset.is_empty()).then_some(self.cpuset.len() as f64);
        match (cpus.or(by_quota), listed) {
            (Some(cpus), Some(listed)) => Some(cpus.min(listed)),
            (cpus, listed) => cpus.or(listed),
        }
    }

    /// Puts them into a specification, but for those of [`resources`].
    pub fn add_to(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut() {
            process.set_oom_score_adj(self.oom_score_adj);
            // Built of all three parts: nothing is missing that could fail it.
            let limits = self.ulimits.iter().filter_map(|ulimit| {
                let Ulimit { kind, soft, hard } = *ulimit;
                PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().ok()
            });
            process.set_rlimits(Some(limits.collect()));
        }
        if let Some(linux) = spec.linux_mut() {
            let parameters = self.sysctls.clone().into_iter().collect();
            linux.set_sysctl((!self.sysctls.is_empty()).then_some(parameters));
        }
        if let Some(size) = self.shm_size {
            let at_shm = |mount: &&mut Mount| mount.destination().as_os_str() == SHM;
            for mount in spec.mounts_mut().iter_mut().flatten().filter(at_shm) {
                let mut options = mount.options().clone().unwrap_or_default();
                options.retain(|option| !option.starts_with("size="));
                options.push(format!("size={size}"));
                mount.set_options(Some(options));
            }
        }
    }
}

/// What the container's control group in the guest is limited to.
pub fn resources(options: &Options) -> LinuxResources {
    let limits = &options.limits;
    let mut resources = LinuxResources::default();
    // The default of oci-spec carries a rule that denies every device.
    resources.set_devices(None);
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    if options.memory.is_some() || limits.memory_reservation.is_some() {
        let mut memory = LinuxMemory::default();
        let limit = options.memory.map(bytes);
        memory.set_limit(limit);
        memory.set_swap(limit.map(|limit| limits.memory_swap.unwrap_or(limit)));
        memory.set_reservation(limits.memory_reservation.map(bytes));
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares);
    cpu.set_quota(limits.cpu_quota);
    cpu.set_period(limits.cpu_period);
    // Whole CPUs are the machine's vCPUs; a fraction needs a quota.
    if let Some(cpus) = options.cpus.filter(|cpus| cpus.fract() != 0.0) {
        // At most MAX_VCPUS periods: far inside an i64.
        #[allow(clippy::cast_possible_truncation)]
        cpu.set_quota(Some((cpus * 100_000.0) as i64));
        cpu.set_period(Some(CPU_PERIOD));
    }
    resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    if let Some(limit) = limits.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources
}

/// The processors of a list such as `0-3,8`.
pub fn listed(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) =
            (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        // Before they are held: a list has as many parts as fit into its file.
        if last < first || last - first >= MAX_LISTED - all.len() {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Does something on some of the host's processors: what it starts stays there. All where none is named.
pub fn on_processors<T>(processors: &[usize], act: impl FnOnce() -> T) -> Result<T, LimitError> {
    if processors.is_empty() {
        return Ok(act());
    }
    let this_thread = Pid::from_raw(0);
    let before = sched_getaffinity(this_thread).map_err(LimitError::Affinity)?;
    let mut wanted = CpuSet::new();
    processors
        .iter()
        .try_for_each(|processor| wanted.set(*processor))
        .and_then(|()| sched_setaffinity(this_thread, &wanted))
        .map_err(|errno| LimitError::Processors(processors.to_vec(), errno))?;
    let done = act();
    sched_setaffinity(this_thread, &before).map_err(LimitError::Affinity)?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_resources() {
        let options = Options { memory: Some(64 << 20), cpus: Some(1.5), ..Options::default() };
        let made = resources(&options);
        assert_eq!(made.memory().unwrap().limit(), Some(64 << 20));
        assert_eq!(made.memory().unwrap().swap(), Some(64 << 20));
        assert_eq!(made.cpu().as_ref().unwrap().quota(), Some(150_000));
        let whole = Options { cpus: Some(2.0), ..Options::default() };
        assert!(resources(&whole).cpu().is_none());
        let limits = Limits { pids: Some(7), cpu_shares: Some(512), ..Limits::default() };
        let made = resources(&Options { limits, ..Options::default() });
        assert_eq!(made.pids().unwrap().limit(), 7);
        assert_eq!(made.cpu().as_ref().unwrap().shares(), Some(512));
        assert!(made.memory().is_none());
    }

    #[test]
    fn the_machine_has_the_cpus_that_anything_asks_for() {
        let with = |cpuset: &[usize], quota, cpus| {
            let cpuset = cpuset.to_vec();
            Limits { cpuset, cpu_quota: quota, ..Limits::default() }.cpus(cpus)
        };
        assert_eq!(with(&[], None, None), None);
        assert_eq!(with(&[0, 1, 5], None, None), Some(3.0));
        assert_eq!(with(&[0, 1], None, Some(4.0)), Some(2.0));
        assert_eq!(with(&[], Some(250_000), None), Some(2.5));
        assert_eq!(with(&[], Some(-1), None), None);
    }

    #[test]
    fn what_is_started_stays_on_its_processors() {
        let allowed = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            (0..CpuSet::count()).filter(|n| set.is_set(*n).unwrap()).collect::<Vec<_>>()
        };
        let all = allowed();
        assert_eq!(on_processors(&all[..1], allowed).unwrap(), all[..1]);
        assert_eq!(allowed(), all);
        assert!(matches!(on_processors(&[4095], allowed), Err(LimitError::Processors(..))));
        assert_eq!(allowed(), all);
    }
}
