//! The control group of a monitor: what all of it may take of the host, whatever its guest does. Where this
//! user may make some.
//!
//! With control groups of version 2 a monitor is born into its group. Version 1 has a hierarchy for each
//! controller, and a monitor is moved into its groups before it is told what to do.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where control groups of version 2 are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The group that all monitors' groups are in.
const PARENT: &str = "ampoule";

/// What is limited.
const CONTROLLERS: &str = "+memory +pids";

/// What a monitor may need beside its guest's memory, in MiB: page tables, buffers of 1,024 vsock
/// connections (128 MiB), and itself. Of the host's page cache it gets what is left.
const OVERHEAD_MIB: u64 = 256;

/// Threads beside the vCPUs': control, devices, shares, and KVM's own.
const THREADS: u64 = 32;

/// A group without processes that is older than this was a killed keeper's: no start takes as long.
const ABANDONED: Duration = Duration::from_secs(60);

/// A group, which goes when this is dropped: by then nothing may be in it.
#[derive(Debug)]
pub struct Group {
    /// One, or one of each hierarchy.
    paths: Vec<PathBuf>,
    /// That of version 2.
    folder: Option<OwnedFd>,
}

/// What a machine takes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory of the guest, in MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u8,
}

/// A group that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// For a machine of this size.
    pub size: Size,
    /// Where somebody has said that it is to be, below the root of all groups.
    pub parent: Option<PathBuf>,
}

impl From<Size> for Wanted {
    fn from(size: Size) -> Self {
        Self { size, parent: None }
    }
}

/// The hierarchies of control groups that a host has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchies {
    /// The one of version 2.
    Unified(PathBuf),
    /// Those of version 1 that limit memory, and processes.
    Divided { memory: PathBuf, pids: PathBuf },
}

impl Hierarchies {
    fn of(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() || !root.join("memory").exists() {
            return Self::Unified(root.to_owned());
        }
        Self::Divided { memory: root.join("memory"), pids: root.join("pids") }
    }
}

impl Group {
    /// Makes the group of the sandbox with this id. None where the host has no groups, or this user may not
    /// make them.
    ///
    /// # Errors
    /// Somebody has said where it is to be, and it cannot be there.
    pub fn make(id: &str, wanted: &Wanted) -> io::Result<Option<Self>> {
        match Self::make_in(&Hierarchies::of(Path::new(ROOT)), id, wanted) {
            Err(error) if wanted.parent.is_some() => Err(error),
            made => Ok(made.ok()),
        }
    }

    fn make_in(hierarchies: &Hierarchies, id: &str, wanted: &Wanted) -> io::Result<Self> {
        let parent = wanted.parent.as_deref().unwrap_or(Path::new(PARENT));
        let Size { vcpus, .. } = wanted.size;
        let threads = (u64::from(vcpus) + THREADS).to_string();
        match hierarchies {
            Hierarchies::Unified(root) => {
                let path = root.join(parent).join(id);
                Self::try_unified(&path, wanted.size, &threads).or_else(|_| {
                    // The first since the host was started.
                    prepare(root, parent)?;
                    Self::try_unified(&path, wanted.size, &threads)
                })
            }
            Hierarchies::Divided { memory, pids } => {
                let limits = [
                    (memory, "memory.limit_in_bytes", bytes(wanted.size).to_string()),
                    (pids, "pids.max", threads),
                ];
                let mut group = Self { paths: Vec::new(), folder: None };
                for (root, file, limit) in limits {
                    let path = root.join(parent).join(id);
                    fs::create_dir_all(&path)?;
                    // Dropped, it takes along what was made.
                    group.paths.push(path.clone());
                    fs::write(path.join(file), limit)?;
                }
                Ok(group)
            }
        }
    }

    fn try_unified(path: &Path, size: Size, threads: &str) -> io::Result<Self> {
        fs::create_dir(path)?;
        let mut group = Self { paths: vec![path.to_owned()], folder: None };
        limit_memory(path, size)?;
        fs::write(path.join("pids.max"), threads)?;
        // Half a monitor is none.
        fs::write(path.join("memory.oom.group"), "1")?;
        group.folder = Some(File::open(path)?.into());
        Ok(group)
    }

    /// The folder of version 2, for a process that is to be born into it.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd)
    }

    /// Moves a process into it that was not born there.
    pub fn admit(&self, pid: i32) -> io::Result<()> {
        if self.folder.is_some() {
            return Ok(());
        }
        self.paths.iter().try_for_each(|path| fs::write(path.join("cgroup.procs"), pid.to_string()))
    }
}

fn bytes(size: Size) -> u64 {
    u64::from(size.memory_mib).saturating_add(OVERHEAD_MIB) << 20
}

/// Limits the memory of a group in which there is a monitor of this size.
pub fn limit_memory(group: &Path, size: Size) -> io::Result<()> {
    fs::write(group.join("memory.max"), bytes(size).to_string())
}

impl Drop for Group {
    fn drop(&mut self) {
        for path in &self.paths {
            // One that a process is still about to leave is swept later.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Makes the parent with all that it is in, and has the kernel count in them what the groups in it limit.
fn prepare(root: &Path, parent: &Path) -> io::Result<()> {
    let mut path = root.to_owned();
    for part in parent {
        fs::write(path.join("cgroup.subtree_control"), CONTROLLERS)?;
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::write(path.join("cgroup.subtree_control"), CONTROLLERS)
}

/// Removes the groups of monitors whose keepers were killed.
pub fn sweep() {
    let roots = match Hierarchies::of(Path::new(ROOT)) {
        Hierarchies::Unified(root) => vec![root],
        Hierarchies::Divided { memory, pids } => vec![memory, pids],
    };
    let groups = roots.iter().filter_map(|root| fs::read_dir(root.join(PARENT)).ok());
    for group in groups.flatten().flatten() {
        let made = group.metadata().and_then(|metadata| metadata.modified());
        let old = made.is_ok_and(|made| {
            SystemTime::now().duration_since(made).is_ok_and(|age| age > ABANDONED)
        });
        if old {
            // Refused while there is a process in it; files are none that could be removed.
            let _ = fs::remove_dir(group.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { memory_mib: 128, vcpus: 1 };

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_group_that_cannot_be_made_is_none_and_the_limits_are_the_size_and_more() {
        let root = tempfile::tempdir().unwrap();
        let unified = Hierarchies::of(root.path());
        // A file in the place of the groups' folder.
        fs::write(root.path().join(PARENT), "").unwrap();
        assert!(Group::make_in(&unified, "a", &SIZE.into()).is_err());
        fs::remove_file(root.path().join(PARENT)).unwrap();
        let made = Group::make_in(&unified, "b", &SIZE.into()).unwrap();
        assert_eq!(read(&made.paths[0].join("memory.max")), (384u64 << 20).to_string());
        assert_eq!(read(&made.paths[0].join("pids.max")), "33");
        assert!(made.birthplace().is_some());
        // What the kernel is told to count.
        let parent = root.path().join("ampoule/cgroup.subtree_control");
        assert_eq!(read(&parent), "+memory +pids");
    }

    #[test]
    fn a_group_is_made_where_somebody_wants_it() {
        let root = tempfile::tempdir().unwrap();
        let wanted = Wanted { size: SIZE, parent: Some("machines/web".into()) };
        let made = Group::make_in(&Hierarchies::of(root.path()), "a", &wanted).unwrap();
        assert_eq!(made.paths, [root.path().join("machines/web/a")]);
        for counted in ["", "machines", "machines/web"] {
            let file = root.path().join(counted).join("cgroup.subtree_control");
            assert_eq!(read(&file), "+memory +pids", "{counted}");
        }
    }

    #[test]
    fn with_version_1_there_is_a_group_of_each_hierarchy_and_a_monitor_is_moved() {
        let root = tempfile::tempdir().unwrap();
        for controller in ["memory", "pids"] {
            fs::create_dir(root.path().join(controller)).unwrap();
        }
        let divided = Hierarchies::of(root.path());
        assert!(matches!(divided, Hierarchies::Divided { .. }));
        let made = Group::make_in(&divided, "a", &SIZE.into()).unwrap();
        assert!(made.birthplace().is_none());
        made.admit(42).unwrap();
        let [memory, pids] =
            ["memory", "pids"].map(|name| root.path().join(name).join("ampoule/a"));
        assert_eq!(read(&memory.join("memory.limit_in_bytes")), (384u64 << 20).to_string());
        assert_eq!(read(&pids.join("pids.max")), "33");
        assert_eq!(
            (read(&memory.join("cgroup.procs")), read(&pids.join("cgroup.procs"))),
            ("42".into(), "42".into())
        );
    }
}
