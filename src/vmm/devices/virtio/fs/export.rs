//! The one directory that a device serves.
//!
//! What is shared is cloned as a mount of its own, which is attached nowhere: `..` at its top leads
//! nowhere, a path that is moved out of it on the host is not followed there, and mount points below
//! it are cloned along. Read-only is an attribute of the clone. All of that is the kernel's doing, and
//! holds whatever the guest sends.
//!
//! Several shares are put together in a mount namespace that only a thread of their making ever sees:
//! a read-only tmpfs with a mount for each. That whole tree is then cloned in turn.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::error::FsError;
use crate::vmm::config::{Export, Share};

// From the kernel's include/uapi/linux/mount.h: libc does not have them.
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const MOUNT_ATTR_RDONLY: u64 = 1;

/// Longest name of a directory entry, in bytes.
const NAME_MAX: usize = 255;

/// Clones what is to be shared.
///
/// The descriptor is of the kind `O_PATH`; the mounts live as long as it does.
///
/// # Errors
/// All name the device: see [`FsError`].
pub fn open(tag: &str, export: &Export) -> Result<OwnedFd, FsError> {
    match export {
        Export::Directory(share) => {
            let root = clone(tag, share)?;
            if is_directory(&root).map_err(path_error(tag, &share.path))? {
                return Ok(root);
            }
            Err(FsError::NotADirectory { tag: tag.into(), path: share.path.clone() })
        }
        Export::Tree(shares) => {
            let compose = || compose(tag, shares);
            // A mount namespace is a thread's; the others keep theirs.
            thread::scope(|scope| scope.spawn(compose).join())
                .map_err(|_| FsError::Host(io::Error::other("a thread panicked")))?
        }
    }
}

fn compose(tag: &str, shares: &BTreeMap<String, Share>) -> Result<OwnedFd, FsError> {
    let failed = |what| move |source| FsError::Mount { tag: tag.into(), what, source };
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .map_err(failed("make a mount namespace"))?;
    // Nothing of what follows is to be seen in any other namespace.
    let nowhere = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, nowhere, None::<&str>)
        .map_err(io::Error::from)
        .map_err(failed("make its mounts private"))?;
    let clones = shares
        .iter()
        .map(|(name, share)| Ok((entry_name(tag, name)?, share, clone(tag, share)?)))
        .collect::<Result<Vec<_>, FsError>>()?;
    let top = tmpfs().map_err(failed("make a file system for shares"))?;
    // Over what all paths begin with, and in no path's way: they begin below it.
    move_mount(top.as_fd(), AT_FDCWD, c"/").map_err(failed("mount a file system for shares"))?;
    for (name, share, root) in &clones {
        let at = |source| path_error(tag, &share.path)(source);
        mount_point(top.as_fd(), name, is_directory(root).map_err(at)?)
            .map_err(failed("make a place for a share"))?;
        move_mount(root.as_fd(), top.as_fd(), name).map_err(at)?;
    }
    set_attributes(top.as_fd(), 0, MOUNT_ATTR_RDONLY)
        .map_err(failed("make the shares' top read-only"))?;
    clone_tree(top.as_fd(), c"", libc::AT_EMPTY_PATH).map_err(failed("put the shares together"))
}

fn entry_name(tag: &str, name: &str) -> Result<CString, FsError> {
    let proper = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    let proper = proper && name.len() <= NAME_MAX;
    CString::new(name)
        .ok()
        .filter(|_| proper)
        .ok_or_else(|| FsError::Name { tag: tag.into(), name: name.into() })
}

fn path_error(tag: &str, path: &Path) -> impl FnOnce(io::Error) -> FsError {
    move |source| FsError::Path { tag: tag.into(), path: path.into(), source }
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR)
}

fn mount_point(top: BorrowedFd<'_>, name: &CStr, directory: bool) -> io::Result<()> {
    if directory {
        return Ok(mkdirat(top, name, Mode::S_IRWXU)?);
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    Ok(openat(top, name, flags, Mode::S_IRUSR).map(drop)?)
}

/// A share's mounts.
fn clone(tag: &str, share: &Share) -> Result<OwnedFd, FsError> {
    let cloned = || {
        let path = CString::new(share.path.as_os_str().as_bytes())?;
        let root = clone_tree(AT_FDCWD, &path, 0)?;
        let attributes = if share.read_only { MOUNT_ATTR_RDONLY } else { 0 };
        set_attributes(root.as_fd(), libc::AT_RECURSIVE, attributes)?;
        Ok(root)
    };
    cloned().map_err(path_error(tag, &share.path))
}

fn clone_tree(from: BorrowedFd<'_>, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    let always = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = flags.cast_unsigned() | libc::AT_RECURSIVE.cast_unsigned() | always;
    // SAFETY: the path ends with a zero byte, and nothing is written.
    descriptor(unsafe {
        libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), path.as_ptr(), flags)
    })
}

/// Adds attributes to a mount (with `AT_RECURSIVE`, to all below it too), and lets no mounts come in
/// or go out.
fn set_attributes(root: BorrowedFd<'_>, flags: c_int, attributes: u64) -> io::Result<()> {
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

/// A new file system in memory, mounted nowhere yet.
fn tmpfs() -> io::Result<OwnedFd> {
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

fn move_mount(root: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
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
