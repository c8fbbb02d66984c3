//! Mounts by descriptors: made, changed and attached without a path that somebody could exchange.

use std::ffi::{CStr, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

// From the kernel's include/uapi/linux/mount.h: libc does not have them.
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// Nothing can be written through the mount.
pub const RDONLY: u64 = 1;
/// Set-user-id bits mean nothing.
pub const NOSUID: u64 = 2;
/// Device nodes mean nothing.
pub const NODEV: u64 = 4;
/// Nothing can be executed.
pub const NOEXEC: u64 = 8;

/// A copy of the mount at `path` (with `AT_EMPTY_PATH`, of `from` itself), attached nowhere. With
/// `AT_RECURSIVE`, of all mounts below it too.
pub fn clone_tree(from: BorrowedFd<'_>, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    let always = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = flags.cast_unsigned() | always;
    // SAFETY: the path ends with a zero byte, and nothing is written.
    descriptor(unsafe {
        libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), path.as_ptr(), flags)
    })
}

/// Adds attributes to a mount (with `AT_RECURSIVE`, to all below it too), and lets no mounts come in
/// or go out.
pub fn set_attributes(root: BorrowedFd<'_>, flags: c_int, attributes: u64) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = flags | libc::AT_EMPTY_PATH;
    // SAFETY: the path ends with a zero byte, and the kernel reads as many bytes as the structure
    // has.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of_val(&change),
        )
    };
    done(set)
}

/// A new file system in memory, mounted nowhere yet; its top is of root alone to write to.
pub fn tmpfs() -> io::Result<OwnedFd> {
    // SAFETY: the name ends with a zero byte.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let none = std::ptr::null::<u8>();
    // SAFETY: this command has neither key nor value.
    done(unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    })?;
    // SAFETY: no memory is involved.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// Attaches a mount that is attached nowhere.
pub fn move_mount(root: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: both paths end with a zero byte, and nothing is written.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            root.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

/// Makes a mount that is attached to `/` the root of the calling thread's mount namespace, and leaves
/// nothing of the old one in it.
pub fn become_root(root: BorrowedFd<'_>) -> io::Result<()> {
    fchdir(root)?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        // The root of a host that runs from its initial RAM disk cannot be exchanged.
        Err(Errno::EINVAL) => chroot(".")?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(chdir("/")?)
}

fn done(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a system call returned that makes a descriptor.
fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    done(result)?;
    let fd = c_int::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
