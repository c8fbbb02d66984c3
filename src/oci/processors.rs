//! The processors of the host that a container's machine runs on.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::OciError;
use super::error::host;
use super::record::Record;

/// Has the machine of a container that has a keeper run on these processors; on all where none is
/// named.
pub fn pin(record: &Record, processors: &[usize]) -> Result<(), OciError> {
    let what = "run on the processors of linux.resources.cpu.cpus";
    let mut set = CpuSet::new();
    let all = 0..CpuSet::count();
    let named: Vec<usize> = if processors.is_empty() { all.collect() } else { processors.to_vec() };
    for processor in named {
        set.set(processor).map_err(host(what))?;
    }
    for monitor in children(record.pid).map_err(host("find the container's monitor"))? {
        for thread in threads(monitor).map_err(host("find the machine's threads"))? {
            match sched_setaffinity(Pid::from_raw(thread), &set) {
                // It has ended meanwhile.
                Err(nix::errno::Errno::ESRCH) => {}
                set => set.map_err(host(what))?,
            }
        }
    }
    Ok(())
}

/// The keeper's children: its monitor.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for thread in threads(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"))?;
        all.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(all)
}

fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (own, pid) =
            (i32::try_from(std::process::id()).unwrap(), i32::try_from(child.id()).unwrap());
        assert!(children(own).unwrap().contains(&pid));
        assert_eq!(threads(pid).unwrap(), [pid]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
