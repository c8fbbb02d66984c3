//! The container's root file system: mounted beside everything, then made the root.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use ampoule_protocol::message::{Rootfs, RootfsSource, WritableLayer};
use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};
use nix::unistd::{fchdir, pivot_root};
use oci_spec::runtime::Spec;

use super::paths::Root;
use super::{options, path_of};
use crate::error::{Doing, Error, Result};

/// A directory of the guest that is empty; what is mounted there is only in the container's mount
/// namespace.
pub const STAGE: &str = "/run/ampoule";

const NONE: Option<&str> = None;

/// Mounts the root file system, seen by nobody else.
///
/// `disk` is the device node of the source, where that is a disk.
pub fn mount(rootfs: &Rootfs, disk: Option<&Path>) -> Result<Root> {
    mount_call(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .doing(|| "make the mount namespace private")?;
    match &rootfs.writable {
        WritableLayer::None => {
            mount_source(&rootfs.source, disk, Path::new(STAGE))?;
            Root::open(STAGE)
        }
        WritableLayer::Tmpfs { size } => mount_overlay(&rootfs.source, disk, *size),
    }
}

fn mount_source(source: &RootfsSource, disk: Option<&Path>, target: &Path) -> Result<()> {
    match source {
        RootfsSource::Block { serial, fstype } => {
            if !matches!(fstype.as_str(), "erofs" | "ext4") {
                return Err(Error::Unsupported(format!("a root file system of type {fstype:?}")));
            }
            let device =
                disk.ok_or_else(|| Error::Invalid("the job lacks the disk's device".into()))?;
            mount_call(Some(device), target, Some(fstype.as_str()), MsFlags::MS_RDONLY, NONE)
                .doing(|| format!("mount disk {serial:?} ({}) as {fstype}", device.display()))
        }
        RootfsSource::Directory { path } => {
            let action = || format!("mount the directory {}", path.display());
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount_call(Some(path), target, NONE, bind, NONE).doing(action)?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount_call(NONE, target, NONE, read_only, NONE).doing(action)
        }
    }
}

fn mount_overlay(source: &RootfsSource, disk: Option<&Path>, size: Option<u64>) -> Result<Root> {
    let stage = Path::new(STAGE);
    let tmpfs = size.map_or_else(String::new, |size| format!("size={size},")) + "mode=0700";
    mount_call(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), Some(tmpfs.as_str()))
        .doing(|| format!("mount the writable layer ({tmpfs})"))?;
    let [lower, upper, work, root] =
        ["lower", "upper", "work", "root"].map(|name| stage.join(name));
    for directory in [&lower, &upper, &work, &root] {
        fs::create_dir(directory).doing(|| format!("make {}", directory.display()))?;
    }
    mount_source(source, disk, &lower)?;
    copy_ownership(&lower, &upper)?;
    // The layer ends with the guest: there is nothing that syncing it could save.
    let layers = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount_call(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .doing(|| "mount the overlay")?;
    Root::open(&root)
}

/// An overlay's root has the owner and mode of its upper directory.
fn copy_ownership(from: &Path, to: &Path) -> Result<()> {
    let action = || format!("give {} the owner of {}", to.display(), from.display());
    let metadata = fs::metadata(from).doing(action)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).doing(action)?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777)).doing(action)
}

/// Makes the root read-only where the spec says so, and sets its propagation.
pub fn finish(spec: &Spec, root: &Root) -> Result<()> {
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_call(NONE, path_of(root).as_str(), NONE, flags, NONE)
            .doing(|| "make the root read-only")?;
    }
    let asked = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    if let Some(name) = asked.filter(|name| !name.is_empty()) {
        let Some(flags) = options::propagation(name) else {
            return Err(Error::Invalid(format!("linux.rootfsPropagation {name:?}")));
        };
        mount_call(NONE, path_of(root).as_str(), NONE, flags, NONE)
            .doing(|| format!("make the root {name}"))?;
    }
    Ok(())
}

/// Makes it this process's root, and leaves nothing of the old one in the mount namespace.
pub fn enter(root: Root) -> Result<()> {
    fchdir(root.fd().as_fd()).doing(|| "enter the new root")?;
    // Stacks the old root on the new one: no directory is needed for it.
    pivot_root(".", ".").doing(|| "pivot to the new root")?;
    umount2(".", MntFlags::MNT_DETACH).doing(|| "detach the old root")?;
    nix::unistd::chdir("/").doing(|| "enter the new root")
}
