//! Control groups, version 2: one for each container, below the root that the agent sees.

pub mod devices;
mod freeze;
pub mod limits;
mod oom;
mod stats;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};

/// Where the hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Groups of one container that are looked at: containers can make groups of their own.
const MAX_GROUPS: usize = 4096;

/// Lets containers' groups use every controller that the kernel has.
pub fn enable_controllers() -> Result<()> {
    let file = Path::new(ROOT).join("cgroup.controllers");
    let names = fs::read_to_string(&file).doing(|| format!("read {}", file.display()))?;
    let all: Vec<String> = names.split_whitespace().map(|name| format!("+{name}")).collect();
    if all.is_empty() {
        return Ok(());
    }
    let file = Path::new(ROOT).join("cgroup.subtree_control");
    fs::write(&file, all.join(" ")).doing(|| format!("write {}", file.display()))
}

/// One container's group.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The group of a container. The prefix keeps names such as `cpu.max` apart from the files
    /// that the kernel has there. `linux.cgroupsPath` does not matter here: it names a place in
    /// the host's hierarchy.
    pub fn of_container(name: &str) -> Self {
        Self { path: Path::new(ROOT).join(format!("container-{name}")) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes it.
    pub fn create(&self) -> Result<()> {
        fs::create_dir(&self.path).doing(|| format!("make {}", self.path.display()))
    }

    /// Sets its limits.
    pub fn apply(&self, plan: &limits::Plan) -> Result<()> {
        for (name, value) in plan.writes() {
            let file = self.file(name);
            match fs::write(&file, value) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.path.exists() => {
                    return Err(Error::Unsupported(format!(
                        "{name} (the guest's kernel has none)"
                    )));
                }
                result => {
                    result.doing(|| format!("write {value:?} to {}", file.display()))?;
                }
            }
        }
        Ok(())
    }

    /// Puts device rules in force.
    pub fn restrict_devices(&self, rules: &devices::Rules) -> Result<()> {
        let group = File::open(&self.path).doing(|| format!("open {}", self.path.display()))?;
        rules.attach(&group)
    }

    /// Gives the group to a user of the guest: what it takes to make groups below it, and nothing
    /// that would change its own limits.
    pub fn delegate(&self, owner: u32) -> Result<()> {
        // Kernels that do not tell have these.
        const DEFAULT: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
        let names = fs::read_to_string("/sys/kernel/cgroup/delegate");
        let names = names.unwrap_or_else(|_| DEFAULT.to_owned());
        let files = names.lines().filter(|name| !name.contains('/')).map(|name| self.file(name));
        for path in std::iter::once(self.path.clone()).chain(files) {
            match chown(&path, Some(owner), None) {
                // Which of them there are depends on the controllers.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result.doing(|| format!("give away {}", path.display()))?,
            }
        }
        Ok(())
    }

    /// The file that takes new members.
    pub fn procs(&self) -> Result<File> {
        let file = self.file("cgroup.procs");
        OpenOptions::new().write(true).open(&file).doing(|| format!("open {}", file.display()))
    }

    /// The file whose changes tell of processes that were killed for want of memory; none where
    /// there is no memory controller.
    pub fn memory_events(&self) -> io::Result<File> {
        File::open(self.file("memory.events"))
    }

    /// How many of its processes were killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.memory_events().map_or(0, |mut file| read_oom_kills(&mut file))
    }

    /// Kills all its processes, also those in groups below it.
    pub fn kill(&self) -> Result<()> {
        let file = self.file("cgroup.kill");
        match fs::write(&file, "1") {
            // No group, no processes.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.doing(|| format!("write {}", file.display())),
        }
    }

    /// Its processes, also those in groups below it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for group in self.groups() {
            match fs::read_to_string(group.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok())),
                // Threaded groups have no list of processes; others went away meanwhile.
                Err(e) if is_gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(e) => return Err(e).doing(|| format!("list {}", group.display())),
            }
        }
        Ok(pids)
    }

    /// Blocks until its last process is gone.
    pub fn wait_until_empty(&self) -> Result<()> {
        self.wait_for_event("populated 0", None).map(drop)
    }

    /// Kills its processes and removes it, with the groups below it.
    pub fn remove(&self) -> Result<()> {
        self.kill()?;
        self.wait_until_empty()?;
        for group in self.groups().into_iter().rev() {
            match fs::remove_dir(&group) {
                Err(e) if is_gone(&e) => {}
                result => result.doing(|| format!("remove {}", group.display()))?,
            }
        }
        Ok(())
    }

    /// Itself and the groups below it, each after the one that it is in.
    fn groups(&self) -> Vec<PathBuf> {
        let mut groups = vec![self.path.clone()];
        let mut next = 0;
        while let Some(group) = groups.get(next) {
            next += 1;
            let Ok(entries) = fs::read_dir(group) else {
                continue;
            };
            let below: Vec<PathBuf> = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .take(MAX_GROUPS.saturating_sub(groups.len()))
                .collect();
            groups.extend(below);
        }
        groups
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// The number in a file that has just one; none where it says `max` or is not there.
fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Reads `memory.events` from its start; 0 where it says nothing of kills.
pub fn read_oom_kills(file: &mut File) -> u64 {
    let mut text = String::new();
    if io::Seek::rewind(file).is_err() || file.read_to_string(&mut text).is_err() {
        return 0;
    }
    parse_oom_kills(&text)
}

fn parse_oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_apart_from_group_kills() {
        let text = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(parse_oom_kills(text), 2);
        assert_eq!(parse_oom_kills("oom_group_kill 1\n"), 0);
        assert_eq!(parse_oom_kills(""), 0);
    }
}
