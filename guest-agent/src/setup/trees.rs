//! Detached mounts: made and changed before they are seen anywhere, then attached.
//!
//! What `mount(2)` cannot say: attributes of one mount or of all below it, without touching those
//! that are not named, and mapped ids.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Attributes of a mount to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear before that.
    pub clear: u64,
}

impl Attributes {
    /// Read-only, the rest as it is.
    pub const READ_ONLY: Self = Self { set: libc::MOUNT_ATTR_RDONLY, clear: 0 };

    /// Nothing is changed.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Later words win over earlier ones.
    pub fn then(self, later: Self) -> Self {
        Self { set: self.set & !later.clear | later.set, clear: self.clear | later.clear }
    }
}

/// A copy of a mount, or of all mounts of a tree, that is attached nowhere yet. It goes with its
/// descriptor if it is never attached.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Copies what is at `source`.
    pub fn copy(source: &impl AsFd, recursive: bool) -> nix::Result<Self> {
        let flags = libc::OPEN_TREE_CLONE
            | libc::OPEN_TREE_CLOEXEC
            | flag(libc::AT_EMPTY_PATH)
            | if recursive { flag(libc::AT_RECURSIVE) } else { 0 };
        let source = source.as_fd().as_raw_fd();
        // SAFETY: open_tree reads one NUL-terminated string, which is static; the rest are integers.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, source, c"".as_ptr(), flags) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel returned this descriptor just now and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Changes its first mount, or all of it.
    pub fn set(&self, attributes: Attributes, recursive: bool) -> nix::Result<()> {
        change(&self.0, attributes, None, recursive)
    }

    /// Shows its files' owners through the mappings of a user namespace: an id of the file system
    /// is one of the namespace's.
    pub fn map_ids(&self, namespace: &impl AsFd, recursive: bool) -> nix::Result<()> {
        change(&self.0, Attributes::default(), Some(namespace.as_fd()), recursive)
    }

    /// Puts it on top of what is at `target`.
    pub fn attach(&self, target: &impl AsFd) -> nix::Result<()> {
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let empty = c"".as_ptr();
        let (from, to) = (self.0.as_raw_fd(), target.as_fd().as_raw_fd());
        // SAFETY: move_mount reads two NUL-terminated strings, which are static; the rest are
        // integers.
        let result = unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) };
        Errno::result(result).map(drop)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Changes a mount, or all of its tree; `mounted` is its root.
pub fn set(mounted: &impl AsFd, attributes: Attributes, recursive: bool) -> nix::Result<()> {
    change(mounted, attributes, None, recursive)
}

fn change(
    mounted: &impl AsFd,
    attributes: Attributes,
    ids: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> nix::Result<()> {
    let namespace = ids.as_ref().map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let request = libc::mount_attr {
        attr_set: attributes.set | if ids.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: attributes.clear,
        propagation: 0,
        userns_fd: namespace,
    };
    let flags = flag(libc::AT_EMPTY_PATH) | if recursive { flag(libc::AT_RECURSIVE) } else { 0 };
    // SAFETY: mount_setattr reads one NUL-terminated string, which is static, and one mount_attr of
    // the size that follows it; the rest are integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mounted.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of_val(&request),
        )
    };
    Errno::result(result).map(drop)
}

/// The `AT_*` are small positive numbers.
const fn flag(at: libc::c_int) -> libc::c_uint {
    at.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_opposites_wins() {
        let read_only = Attributes { set: 1, clear: 0 };
        let writable = Attributes { set: 0, clear: 1 };
        assert_eq!(read_only.then(writable), writable);
        assert_eq!(writable.then(read_only), Attributes { set: 1, clear: 1 });
    }
}
