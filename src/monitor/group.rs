//! The control group of a monitor: what all of it may take of the host, whatever its guest does. On
//! hosts with control groups of version 2, where this user may make some.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Where control groups of version 2 are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The group that all monitors' groups are in.
const PARENT: &str = "ampoule";

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
    path: PathBuf,
    folder: OwnedFd,
}

/// What a machine takes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Memory of the guest, in MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u8,
}

impl Group {
    /// Makes the group of the sandbox with this id. None where the host has no such groups, or this user
    /// may not make them.
    pub fn make(id: &str, size: Size) -> Option<Self> {
        Self::make_in(Path::new(ROOT), id, size).ok()
    }

    fn make_in(root: &Path, id: &str, size: Size) -> io::Result<Self> {
        let path = root.join(PARENT).join(id);
        Self::try_make(&path, size).or_else(|_| {
            // The first since the host was started.
            prepare(root)?;
            Self::try_make(&path, size)
        })
    }

    fn try_make(path: &Path, size: Size) -> io::Result<Self> {
        fs::create_dir(path)?;
        let limited = || {
            limit_memory(path, size)?;
            fs::write(path.join("pids.max"), (u64::from(size.vcpus) + THREADS).to_string())?;
            // Half a monitor is none.
            fs::write(path.join("memory.oom.group"), "1")?;
            File::open(path)
        };
        match limited() {
            Ok(folder) => Ok(Self { path: path.to_owned(), folder: folder.into() }),
            Err(error) => {
                let _ = fs::remove_dir(path);
                Err(error)
            }
        }
    }
}

/// Limits the memory of a group in which there is a monitor of this size.
pub fn limit_memory(group: &Path, size: Size) -> io::Result<()> {
    let memory = u64::from(size.memory_mib).saturating_add(OVERHEAD_MIB) << 20;
    fs::write(group.join("memory.max"), memory.to_string())
}

impl AsFd for Group {
    /// Its folder: for a process that is to be born into it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that a process is still about to leave is swept later.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Makes the parent, and has the kernel count in it what the groups in it limit.
fn prepare(root: &Path) -> io::Result<()> {
    let parent = root.join(PARENT);
    let controllers = "+memory +pids";
    fs::write(root.join("cgroup.subtree_control"), controllers)?;
    match fs::create_dir(&parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(parent.join("cgroup.subtree_control"), controllers)
}

/// Removes the groups of monitors whose keepers were killed.
pub fn sweep() {
    let Ok(groups) = fs::read_dir(Path::new(ROOT).join(PARENT)) else { return };
    for group in groups.flatten() {
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

    #[test]
    fn a_group_that_cannot_be_made_is_none_and_the_limits_are_the_size_and_more() {
        let root = tempfile::tempdir().unwrap();
        let size = Size { memory_mib: 128, vcpus: 1 };
        // A file in the place of the groups' folder.
        fs::write(root.path().join(PARENT), "").unwrap();
        assert!(Group::make_in(root.path(), "a", size).is_err());
        fs::remove_file(root.path().join(PARENT)).unwrap();
        let made = Group::make_in(root.path(), "b", size).unwrap();
        let written = |name: &str| fs::read_to_string(made.path.join(name)).unwrap();
        assert_eq!(written("memory.max"), (384u64 << 20).to_string());
        assert_eq!(written("pids.max"), "33");
        // What the kernel is told to count.
        let parent = root.path().join("ampoule/cgroup.subtree_control");
        assert_eq!(fs::read_to_string(parent).unwrap(), "+memory +pids");
    }
}
