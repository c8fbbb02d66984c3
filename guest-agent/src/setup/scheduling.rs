//! When and where the process runs: scheduler, priority of its input and output, processors.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};

use crate::error::{Doing, Error, Result};

/// Sets `process.scheduler` and `process.ioPriority`, while this process may.
pub fn apply(process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        let attributes = attributes(scheduler)?;
        // SAFETY: sched_setattr reads one sched_attr, which says its own size; the rest are
        // integers.
        let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
        Errno::result(result).doing(|| format!("set process.scheduler {}", scheduler.policy()))?;
    }
    if let Some(priority) = process.io_priority() {
        const IOPRIO_WHO_PROCESS: libc::c_int = 1;
        let value = io_priority(priority.class(), priority.priority())?;
        // SAFETY: ioprio_set takes three integers.
        let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
        Errno::result(result).doing(|| "set process.ioPriority")?;
    }
    Ok(())
}

fn attributes(scheduler: &Scheduler) -> Result<libc::sched_attr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        // Linux keeps its number and has never had it.
        LinuxSchedulerPolicy::SchedIso => {
            return Err(Error::Unsupported("process.scheduler.policy SCHED_ISO".into()));
        }
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| flags | bit(*flag));
    let size = size_of::<libc::sched_attr>();
    let priority = scheduler.priority().unwrap_or(0);
    let number = |value: i32| {
        u32::try_from(value)
            .map_err(|_| Error::Invalid(format!("process.scheduler.priority {value}")))
    };
    Ok(libc::sched_attr {
        size: u32::try_from(size).map_err(|_| Error::Invalid("process.scheduler".into()))?,
        sched_policy: policy.unsigned_abs(),
        sched_flags: u64::from(flags),
        sched_nice: scheduler.nice().unwrap_or(0),
        sched_priority: number(priority)?,
        sched_runtime: scheduler.runtime().unwrap_or(0),
        sched_deadline: scheduler.deadline().unwrap_or(0),
        sched_period: scheduler.period().unwrap_or(0),
    })
}

fn bit(flag: LinuxSchedulerFlag) -> u32 {
    let bit = match flag {
        LinuxSchedulerFlag::SchedResetOnFork => libc::SCHED_FLAG_RESET_ON_FORK,
        LinuxSchedulerFlag::SchedFlagReclaim => libc::SCHED_FLAG_RECLAIM,
        LinuxSchedulerFlag::SchedFlagDLOverrun => libc::SCHED_FLAG_DL_OVERRUN,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => libc::SCHED_FLAG_KEEP_POLICY,
        LinuxSchedulerFlag::SchedFlagKeepParams => libc::SCHED_FLAG_KEEP_PARAMS,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => libc::SCHED_FLAG_UTIL_CLAMP_MIN,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => libc::SCHED_FLAG_UTIL_CLAMP_MAX,
    };
    bit.unsigned_abs()
}

/// `IOPRIO_PRIO_VALUE` of ioprio_set(2).
fn io_priority(class: IOPriorityClass, priority: i64) -> Result<u32> {
    const CLASS_SHIFT: u32 = 13;
    let class: u32 = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(priority) {
        Ok(priority @ 0..=7) => Ok(class << CLASS_SHIFT | priority),
        _ => Err(Error::Invalid(format!("process.ioPriority.priority {priority} is not 0 to 7"))),
    }
}

/// Runs this process on these processors only.
///
/// # Errors
/// The list is none, or none of them is the container's.
pub fn run_on(list: Option<&String>) -> Result<()> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(());
    };
    let set = processors(list)?;
    sched_setaffinity(Pid::from_raw(0), &set).doing(|| format!("run on processors {list}"))
}

/// A list such as `0-3,7`.
fn processors(list: &str) -> Result<CpuSet> {
    let invalid = || Error::Invalid(format!("process.execCPUAffinity {list:?}"));
    let mut set = CpuSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| invalid());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::count() {
            return Err(invalid());
        }
        for processor in first..=last {
            set.set(processor).map_err(|_| invalid())?;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_in_ranges() {
        let set = processors("0-2,5").unwrap();
        let found: Vec<usize> = (0..8).filter(|n| set.is_set(*n).unwrap()).collect();
        assert_eq!(found, [0, 1, 2, 5]);
        for bad in ["3-1", "x", "1-", "", "0-99999", "-1"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn priorities_are_in_the_kernels_range() {
        assert_eq!(io_priority(IOPriorityClass::IoprioClassBe, 4).unwrap(), 2 << 13 | 4);
        assert!(io_priority(IOPriorityClass::IoprioClassRt, 8).is_err());
        assert!(io_priority(IOPriorityClass::IoprioClassRt, -1).is_err());
    }

    #[test]
    fn a_scheduler_is_the_kernels_attributes() {
        let json = r#"{"policy": "SCHED_DEADLINE", "flags": ["SCHED_RESET_ON_FORK"],
                       "runtime": 1, "deadline": 2, "period": 3}"#;
        let found = attributes(&serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!((found.sched_policy, found.sched_flags), (6, 1));
        assert_eq!((found.sched_runtime, found.sched_deadline, found.sched_period), (1, 2, 3));
        let iso = serde_json::from_str(r#"{"policy": "SCHED_ISO"}"#).unwrap();
        assert!(matches!(attributes(&iso), Err(Error::Unsupported(_))));
    }
}
