//! Masked and read-only paths: parts of `/proc` and `/sys` that a container may not see or write.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use oci_spec::runtime::Spec;

use super::path_of;
use super::paths::Root;
use super::trees::{Attributes, Tree};
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
        with(root, path, "mask", mask)?;
    }
    Ok(())
}

fn with(
    root: &Root,
    path: &str,
    verb: &str,
    action: impl FnOnce(&OwnedFd) -> nix::Result<()>,
) -> Result<()> {
    match root.open_in(path, OFlag::O_PATH) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
        target => target.and_then(|target| action(&target)).doing(|| format!("{verb} {path}")),
    }
}

/// A mount of its own, as it was but read-only.
fn make_read_only(target: &OwnedFd) -> nix::Result<()> {
    let tree = Tree::copy(target, true)?;
    tree.set(Attributes::READ_ONLY, false)?;
    tree.attach(target)
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
