//! Which file systems of the host have what was written to them as soon as they said so.
//!
//! A network's file system may keep it until the file is closed, and only then find that it has no
//! room. It has to be asked at each `close` of the guest; for the others that is a message for nothing.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

// Of the kernel's include/uapi/linux/magic.h, or of the file system's own source.
const BCACHEFS: FsType = FsType(0xca45_1a4e);
const ZFS: FsType = FsType(0x2fc1_2fc1);

/// Devices (`st_dev`) of file systems that are known to be local.
#[derive(Debug)]
pub struct LocalDevices(BTreeSet<u64>);

impl LocalDevices {
    /// Those of the top, and of the shares of these names in it. What is mounted deeper counts as not
    /// known.
    pub fn of(root: BorrowedFd<'_>, shares: &[String]) -> Self {
        let mut devices = BTreeSet::new();
        let mut add = |file: BorrowedFd<'_>| {
            let local = fstatfs(file).is_ok_and(|found| is_local(found.filesystem_type()));
            if local && let Ok(found) = fstat(file) {
                devices.insert(found.st_dev);
            }
        };
        add(root);
        for name in shares {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            if let Ok(entry) = openat(root, name.as_str(), flags, Mode::empty()) {
                add(entry.as_fd());
            }
        }
        Self(devices)
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether this is one.
    pub fn holds(&self, device: u64) -> bool {
        self.0.contains(&device)
    }
}

fn is_local(kind: FsType) -> bool {
    [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        F2FS_SUPER_MAGIC,
        TMPFS_MAGIC,
        // Its upper layer is none of a network's: those lack what it needs.
        OVERLAYFS_SUPER_MAGIC,
        BCACHEFS,
        ZFS,
    ]
    .contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_no_disk_of_the_host_is_not_local() {
        let root = File::open("/").unwrap();
        let found = LocalDevices::of(root.as_fd(), &["proc".into(), "missing".into()]);
        let proc = File::open("/proc").unwrap().metadata().unwrap().dev();
        assert!(!found.holds(proc));
        let none = LocalDevices::of(File::open("/proc").unwrap().as_fd(), &[]);
        assert!(!none.any());
    }
}
