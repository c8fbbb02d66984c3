//! Which file systems of the host have what was written to them as soon as they said so.
//!
//! A network's file system may keep it until the file is closed, and only then find that it has no
//! room. It has to be asked at each `close` of the guest; for the others that is a message for nothing.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

use crate::vmm::exit::lock;

// Of the kernel's include/uapi/linux/magic.h, or of the file system's own source.
const BCACHEFS: FsType = FsType(0xca45_1a4e);
const ZFS: FsType = FsType(0x2fc1_2fc1);

/// Devices (`st_dev`) of file systems that are known to be local: the top's, and those of its entries that
/// were looked at. What is mounted deeper counts as not known.
#[derive(Debug)]
pub struct LocalDevices {
    top: Option<u64>,
    entries: Mutex<BTreeMap<Vec<u8>, u64>>,
}

impl LocalDevices {
    /// The top's.
    pub fn of(root: BorrowedFd<'_>) -> Self {
        Self { top: local_device(root), entries: Mutex::default() }
    }

    /// Looks at what is mounted at an entry of the top now.
    pub fn look(&self, root: BorrowedFd<'_>, name: &[u8]) {
        let look = |name: &[u8]| {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let entry = openat(root, name, flags, Mode::empty()).ok()?;
            local_device(entry.as_fd())
        };
        let mut entries = lock(&self.entries);
        if !entries.contains_key(name) {
            // The number of what has gone since may be another file system's by now.
            entries.retain(|name, device| look(name) == Some(*device));
        }
        match look(name) {
            Some(device) => entries.insert(name.to_owned(), device),
            None => entries.remove(name),
        };
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.top.is_some() || !lock(&self.entries).is_empty()
    }

    /// Whether this is one.
    pub fn holds(&self, device: u64) -> bool {
        self.top == Some(device) || lock(&self.entries).values().any(|known| *known == device)
    }
}

/// The device of a file, where its file system is local.
fn local_device(file: BorrowedFd<'_>) -> Option<u64> {
    let found = fstatfs(file).ok()?;
    is_local(found.filesystem_type()).then(|| fstat(file).ok().map(|stat| stat.st_dev))?
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
        let found = LocalDevices::of(root.as_fd());
        for name in [b"proc".as_slice(), b"missing"] {
            found.look(root.as_fd(), name);
        }
        let proc = File::open("/proc").unwrap().metadata().unwrap().dev();
        assert!(!found.holds(proc));
        let none = LocalDevices::of(File::open("/proc").unwrap().as_fd());
        assert!(!none.any());
    }

    #[test]
    fn an_entry_is_looked_at_again_and_one_that_has_gone_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (root, entry) = (File::open(folder.path()).unwrap(), folder.path().join("a"));
        std::fs::write(&entry, "").unwrap();
        let found = LocalDevices { top: None, entries: Mutex::default() };
        found.look(root.as_fd(), b"a");
        let local = found.any();
        std::fs::remove_file(&entry).unwrap();
        found.look(root.as_fd(), b"b");
        assert!(!found.any());
        assert_eq!(local, local_device(root.as_fd()).is_some());
    }
}
