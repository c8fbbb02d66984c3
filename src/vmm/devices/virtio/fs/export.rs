//! The one directory that a device serves.
//!
//! What is shared is cloned as a mount of its own, which is attached nowhere: `..` at its top leads
//! nowhere, a path that is moved out of it on the host is not followed there, and mount points below
//! it are cloned along. Read-only is an attribute of the clone. All of that is the kernel's doing, and
//! holds whatever the guest sends.
//!
//! Several shares are put together in a mount namespace that only a thread of their making ever sees:
//! a read-only tmpfs with a mount for each. That whole tree is then cloned in turn.
//!
//! A tree whose entries come and go is its keeper's: it is made of the same parts, and handed over.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::error::FsError;
use crate::mounts::{RDONLY, clone_tree, move_mount, set_attributes, tmpfs};
use crate::vmm::config::{Export, Share};

/// Longest name of a directory entry, in bytes.
const NAME_MAX: usize = 255;

/// Clones what is to be shared.
///
/// The descriptor is of the kind `O_PATH`; the mounts live as long as it does.
///
/// # Errors
/// All name the device: see [`FsError`].
pub fn open(tag: &str, export: &Export) -> Result<OwnedFd, FsError> {
    // A mount namespace is a thread's; the others keep theirs.
    let apart = || {
        thread::scope(|scope| {
            scope.spawn(|| own_mounts().and_then(|()| open_here(tag, export))).join()
        })
        .map_err(|_| FsError::Host(io::Error::other("a thread panicked")))?
    };
    match export {
        Export::Directory(_) | Export::Given => open_here(tag, export),
        Export::Tree(_) => apart(),
    }
}

/// Leaves the calling thread alone with its mounts: nothing of what it does to them is to be seen in any
/// other namespace.
///
/// # Errors
/// It may not have a mount namespace of its own.
pub fn own_mounts() -> Result<(), FsError> {
    let apart = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nowhere = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, nowhere, None::<&str>)
    };
    apart().map_err(|errno| FsError::Namespace(errno.into()))
}

/// As [`open`], by a thread that is alone with its mounts.
pub fn open_here(tag: &str, export: &Export) -> Result<OwnedFd, FsError> {
    match export {
        Export::Directory(share) => {
            let root = clone_share(tag, share)?;
            if is_directory(&root).map_err(path_error(tag, &share.path))? {
                return Ok(root);
            }
            Err(FsError::NotADirectory { tag: tag.into(), path: share.path.clone() })
        }
        Export::Tree(shares) => compose(tag, shares),
        Export::Given => Err(FsError::NotGiven { tag: tag.into() }),
    }
}

fn compose(tag: &str, shares: &BTreeMap<String, Share>) -> Result<OwnedFd, FsError> {
    let failed = |what| move |source| FsError::Mount { tag: tag.into(), what, source };
    let clones = shares
        .iter()
        .map(|(name, share)| Ok((entry_name(tag, name)?, share, clone_share(tag, share)?)))
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
    set_attributes(top.as_fd(), 0, RDONLY).map_err(failed("make the shares' top read-only"))?;
    clone_tree(top.as_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
        .map_err(failed("put the shares together"))
}

/// The name of an entry of a file system's top.
///
/// # Errors
/// It is none.
pub fn entry_name(tag: &str, name: &str) -> Result<CString, FsError> {
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

/// Whether it is a directory, and not a single file.
pub fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode) & SFlag::S_IFMT;
    Ok(kind == SFlag::S_IFDIR)
}

/// Makes a place for a share at the top.
pub fn mount_point(top: BorrowedFd<'_>, name: &CStr, directory: bool) -> io::Result<()> {
    if directory {
        return Ok(mkdirat(top, name, Mode::S_IRWXU)?);
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    Ok(openat(top, name, flags, Mode::S_IRUSR).map(drop)?)
}

/// A share's mounts, attached nowhere.
///
/// # Errors
/// It cannot be shared.
pub fn clone_share(tag: &str, share: &Share) -> Result<OwnedFd, FsError> {
    let cloned = || {
        let path = CString::new(share.path.as_os_str().as_bytes())?;
        let root = clone_tree(AT_FDCWD, &path, libc::AT_RECURSIVE)?;
        let attributes = if share.read_only { RDONLY } else { 0 };
        set_attributes(root.as_fd(), libc::AT_RECURSIVE, attributes)?;
        Ok(root)
    };
    cloned().map_err(path_error(tag, &share.path))
}
