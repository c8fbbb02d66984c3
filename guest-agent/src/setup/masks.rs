//! Masked and read-only paths: parts of `/proc` and `/sys` that a container may not see or write.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::Spec;

use super::path_of;
use super::paths::Root;
use crate::error::{Doing, Result};

const NONE: Option<&str> = None;

/// Applies `linux.readonlyPaths` and `linux.maskedPaths`. Paths that are not there need no mask.
pub fn apply(spec: &Spec, root: &Root) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Ok(());
    };
    for path in linux.readonly_paths().iter().flatten() {
        with(root, path, "make read-only", make_read_only)?;
    }
    for path in linux.masked_paths().iter().flatten() {
        with(root, path, "mask", |target, _| mask(target))?;
    }
    Ok(())
}

fn with(
    root: &Root,
    path: &str,
    verb: &str,
    action: impl FnOnce(&OwnedFd, &dyn Fn() -> nix::Result<OwnedFd>) -> nix::Result<()>,
) -> Result<()> {
    let open = || root.open_in(path, OFlag::O_PATH);
    match open() {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        target => {
            target.and_then(|target| action(&target, &open)).doing(|| format!("{verb} {path}"))
        }
    }
}

/// A mount of its own, with the flags that it had and read-only.
fn make_read_only(target: &OwnedFd, reopen: &dyn Fn() -> nix::Result<OwnedFd>) -> nix::Result<()> {
    let path = path_of(target);
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(path.as_str()), path.as_str(), NONE, bind, NONE)?;
    let mounted = reopen()?;
    let had = nix::sys::statvfs::fstatvfs(&mounted)?.flags();
    // The bits of ST_* and MS_* are the same for these.
    let kept = MsFlags::from_bits_truncate(had.bits())
        & (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept;
    mount(NONE, path_of(&mounted).as_str(), NONE, flags, NONE)
}

/// A directory becomes an empty one, anything else the null device.
fn mask(target: &OwnedFd) -> nix::Result<()> {
    let kind = SFlag::from_bits_truncate(fstat(target)?.st_mode) & SFlag::S_IFMT;
    let path = path_of(target);
    if kind == SFlag::S_IFDIR {
        mount(Some("tmpfs"), path.as_str(), Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k"))
    } else {
        mount(Some("/dev/null"), path.as_str(), NONE, MsFlags::MS_BIND, NONE)
    }
}
