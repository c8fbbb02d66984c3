//! Which file systems of the host have what was written to them as soon as they said so.
//!
//! A network's file system may keep it until the file is closed, and only then find that it has no
//! room. It has to be asked at each `close` of the guest; for the others that is a message for nothing.

use std::os::fd::BorrowedFd;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

// Of the kernel's include/uapi/linux/magic.h, or of the file system's own source.
const BCACHEFS: FsType = FsType(0xca45_1a4e);
const ZFS: FsType = FsType(0x2fc1_2fc1);

/// Whether a file is on one that is known to.
pub fn is_local(file: BorrowedFd<'_>) -> bool {
    let local = [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        F2FS_SUPER_MAGIC,
        TMPFS_MAGIC,
        // Its upper layer is none of a network's: those lack what it needs.
        OVERLAYFS_SUPER_MAGIC,
        BCACHEFS,
        ZFS,
    ];
    fstatfs(file).is_ok_and(|found| local.contains(&found.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_no_disk_of_the_host_is_not_local() {
        assert!(!is_local(File::open("/proc").unwrap().as_fd()));
        assert!(!is_local(File::open("/sys").unwrap().as_fd()));
    }
}
