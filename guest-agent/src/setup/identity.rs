//! The identity that a container sees: the agent's files in place of the kernel's boot id and of
//! the image's machine id. See [`crate::identity`].

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::path_of;
use super::paths::Root;
use crate::error::{Doing, Result};
use crate::identity::{BOOT_ID, MACHINE_ID};

const NONE: Option<&str> = None;

/// Binds them, each where the container has what it takes the place of. The binds are read-only
/// like the mount that they are taken from.
pub fn bind(root: &Root) -> Result<()> {
    let boot_id = "/proc/sys/kernel/random/boot_id";
    bind_over(BOOT_ID, boot_id, root.open_in(boot_id, OFlag::O_PATH), |found| {
        // Else it is masked, or the container has no such kernel file.
        Ok(fstatfs(found)?.filesystem_type() == PROC_SUPER_MAGIC)
    })?;
    let machine_id = "/etc/machine-id";
    bind_over(MACHINE_ID, machine_id, root.open_own(machine_id), |found| {
        let kind = SFlag::from_bits_truncate(fstat(found)?.st_mode) & SFlag::S_IFMT;
        Ok(kind == SFlag::S_IFREG)
    })
}

fn bind_over(
    file: &str,
    path: &str,
    found: nix::Result<OwnedFd>,
    is_meant: impl FnOnce(&OwnedFd) -> nix::Result<bool>,
) -> Result<()> {
    let action = || format!("bind {file} over {path}");
    let target = match found {
        // Not there, or there by a mount of the spec's own.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV) => return Ok(()),
        found => found.doing(action)?,
    };
    if !is_meant(&target).doing(action)? {
        return Ok(());
    }
    mount(Some(file), path_of(&target).as_str(), NONE, MsFlags::MS_BIND, NONE).doing(action)
}
