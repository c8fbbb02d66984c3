//! Entering new namespaces, or those of a container that runs.

use std::os::fd::OwnedFd;

use nix::sched::CloneFlags;

use crate::error::{Doing, Result};

/// Moves this process, and for the pid namespace its children, into new namespaces.
pub fn unshare(flags: CloneFlags) -> Result<()> {
    nix::sched::unshare(flags).doing(|| format!("unshare {flags:?}"))
}

/// Moves this process, and for the pid namespace its children, into those namespaces of another
/// process that its container has for itself.
pub fn join(target: &OwnedFd, namespaces: i32) -> Result<()> {
    let flags = CloneFlags::from_bits_truncate(namespaces);
    nix::sched::setns(target, flags).doing(|| format!("join {flags:?}"))
}
