//! The container's root file system: mounted beside everything, then made the root.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use ampoule_protocol::message::{Rootfs, RootfsSource, WritableLayer};
use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, fchdir, pivot_root, setfsgid, setfsuid};
use oci_spec::runtime::Spec;

use super::options;
use super::paths::Root;
use super::trees::{self, Attributes, Tree};
use super::users::UserNamespace;
use crate::error::{Doing, Error, Result};
use crate::shares;

/// A directory of the guest that is empty; what is mounted there is only in the container's mount
/// namespace.
pub const STAGE: &str = "/run/ampoule/stage";

const NONE: Option<&str> = None;

/// Options of the file system that a writable layer is on: the host gets back what is removed.
const LAYER_OPTIONS: &str = "discard";

/// Device nodes of a root file system's parts, as far as they are disks.
#[derive(Debug, Clone, Copy)]
pub struct Disks<'a> {
    /// The source's.
    pub source: Option<&'a Path>,
    /// The writable layer's.
    pub layer: Option<&'a Path>,
}

/// A root file system that nobody sees yet.
pub struct Mounted {
    /// Its top.
    pub root: Root,
    /// The upper and the lower directory of an overlay.
    pub layer: Option<[OwnedFd; 2]>,
}

/// Mounts the root file system, seen by nobody else.
///
/// What an image holds belongs to
/// the ids of `users`, if there is such a namespace; what is shared by the host, or takes the
/// writes itself, has the owners that it has.
pub fn mount(rootfs: &Rootfs, disks: Disks<'_>, users: Option<&UserNamespace>) -> Result<Mounted> {
    let disk = disks.source;
    mount_call(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .doing(|| "make the mount namespace private")?;
    let stage = Path::new(STAGE);
    let is_shared = matches!(rootfs.source, RootfsSource::Share { .. });
    let users = users.filter(|_| !is_shared);
    match &rootfs.writable {
        WritableLayer::Source => {
            mount_source(&rootfs.source, disk, stage, Attributes::default())?;
            Ok(Mounted { root: Root::open(stage)?, layer: None })
        }
        WritableLayer::None => {
            mount_source(&rootfs.source, disk, stage, Attributes::READ_ONLY)?;
            map_ids(stage, users)?;
            Ok(Mounted { root: Root::open(stage)?, layer: None })
        }
        writable => mount_overlay(rootfs, writable, disks, users),
    }
}

/// Checks what can be said of a root file system before anything is made.
pub fn check(rootfs: &Rootfs) -> Result<()> {
    let RootfsSource::Block { fstype, options, .. } = &rootfs.source else {
        return Ok(());
    };
    match (fstype.as_str(), &rootfs.writable) {
        ("erofs", WritableLayer::Source) => {
            return Err(Error::Invalid("an erofs takes no writes".into()));
        }
        ("erofs" | "ext4", _) => {}
        _ => return Err(Error::Unsupported(format!("a root file system of type {fstype:?}"))),
    }
    disk_options(options).map(drop)
}

/// Flags, and what the file system itself is to know.
fn disk_options(list: &[String]) -> Result<(MsFlags, String)> {
    let invalid = |why: String| Error::Invalid(format!("the root file system's options: {why}"));
    let parsed = options::parse(list).map_err(|error| invalid(error.to_string()))?;
    let other = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_REC;
    let of_a_mount = parsed.flags.intersects(other)
        || !parsed.propagation.is_empty()
        || !parsed.recursive.is_empty()
        || parsed.ids != options::Ids::Unmapped
        || parsed.copy_up;
    if of_a_mount {
        return Err(invalid(format!("{list:?} are not a disk's")));
    }
    Ok((parsed.flags, parsed.data))
}

fn mount_source(
    source: &RootfsSource,
    disk: Option<&Path>,
    target: &Path,
    attributes: Attributes,
) -> Result<()> {
    let (directory, name) = match source {
        RootfsSource::Block { serial, fstype, options, .. } => {
            let device =
                disk.ok_or_else(|| Error::Invalid("the job lacks the disk's device".into()))?;
            let (mut flags, data) = disk_options(options)?;
            flags.set(MsFlags::MS_RDONLY, attributes == Attributes::READ_ONLY);
            let data = Some(data.as_str()).filter(|data| !data.is_empty());
            return mount_call(Some(device), target, Some(fstype.as_str()), flags, data)
                .doing(|| format!("mount disk {serial:?} ({}) as {fstype}", device.display()));
        }
        RootfsSource::Directory { path } => (Root::open(path)?.into(), path.display().to_string()),
        RootfsSource::Share { tag, path } => {
            (shares::open(tag, path)?, format!("{} of share {tag:?}", path.display()))
        }
    };
    let action = || format!("mount the directory {name}");
    let tree = Tree::copy(&directory, true).doing(action)?;
    tree.set(attributes, false).doing(action)?;
    tree.attach(Root::open(target)?.fd()).doing(action)
}

/// Puts what is mounted at `path` there once more, with the namespace's ids in place of its own.
fn map_ids(path: &Path, users: Option<&UserNamespace>) -> Result<()> {
    let Some(users) = users else {
        return Ok(());
    };
    let action = || format!("map the ids of {}", path.display());
    let mounted = Root::open(path)?;
    let tree = Tree::copy(mounted.fd(), false).doing(action)?;
    tree.map_ids(users.fd(), false).doing(action)?;
    tree.attach(mounted.fd()).doing(action)
}

fn mount_overlay(
    rootfs: &Rootfs,
    writable: &WritableLayer,
    disks: Disks<'_>,
    users: Option<&UserNamespace>,
) -> Result<Mounted> {
    let stage = Path::new(STAGE);
    let size = match writable {
        WritableLayer::Tmpfs { size } => *size,
        _ => None,
    };
    let tmpfs = size.map_or_else(String::new, |size| format!("size={size},")) + "mode=0711";
    mount_call(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), Some(tmpfs.as_str()))
        .doing(|| format!("mount the writable layer ({tmpfs})"))?;
    for name in ["layer", "lower", "root"].map(|name| stage.join(name)) {
        fs::create_dir(&name).doing(|| format!("make {}", name.display()))?;
    }
    let [lower, root] = ["lower", "root"].map(|name| stage.join(name));
    let [upper, work] = ["layer/upper", "layer/work"].map(|name| stage.join(name));
    if let Some(device) = disks.layer {
        let (to, flags) = (stage.join("layer"), MsFlags::empty());
        mount_call(Some(device), &to, Some("ext4"), flags, Some(LAYER_OPTIONS))
            .doing(|| format!("mount the writable layer ({})", device.display()))?;
    }
    mount_source(&rootfs.source, disks.source, &lower, Attributes::READ_ONLY)?;
    // What is there is a container's that was started before.
    if !upper.exists() {
        for directory in [&upper, &work] {
            fs::create_dir_all(directory).doing(|| format!("make {}", directory.display()))?;
        }
        copy_ownership(&lower, &upper)?;
    }
    // Before their ids are mapped: an image has those that its containers see.
    let layer = [OwnedFd::from(Root::open(&upper)?), Root::open(&lower)?.into()];
    map_ids(&lower, users)?;
    map_ids(&stage.join("layer"), users)?;
    // A layer in memory ends with the guest: there is nothing that syncing it could save.
    let volatile = if disks.layer.is_none() { ",volatile" } else { "" };
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}{volatile}",
        lower.display(),
        upper.display(),
        work.display()
    );
    as_owner_of(users, || {
        mount_call(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .doing(|| "mount the overlay")
    })?;
    Ok(Mounted { root: Root::open(&root)?, layer: Some(layer) })
}

/// An overlay writes to its layers as whoever mounted it: through mapped ids, that has to be an id
/// that is mapped. It keeps what the guest's root may do.
fn as_owner_of(users: Option<&UserNamespace>, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(users) = users else {
        return action();
    };
    let (uid, gid) = (users.uid(0)?, users.gid(0)?);
    keep_capabilities(true)?;
    setfsgid(gid);
    setfsuid(uid);
    let result = action();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    keep_capabilities(false)?;
    result
}

/// Whether changes of ids leave capabilities alone: `SECBIT_NO_SETUID_FIXUP` of capabilities(7).
fn keep_capabilities(keep: bool) -> Result<()> {
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    let bits = if keep { NO_SETUID_FIXUP } else { 0 };
    // SAFETY: PR_SET_SECUREBITS takes an integer.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) };
    nix::errno::Errno::result(result).doing(|| "set the secure bits").map(drop)
}

/// An overlay's root has the owner and mode of its upper directory.
fn copy_ownership(from: &Path, to: &Path) -> Result<()> {
    let action = || format!("give {} the owner of {}", to.display(), from.display());
    let metadata = fs::metadata(from).doing(action)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).doing(action)?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777)).doing(action)
}

/// Makes the root read-only where the spec says so.
pub fn finish(spec: &Spec, root: &Root) -> Result<()> {
    if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
        trees::set(root.fd(), Attributes::READ_ONLY, false).doing(|| "make the root read-only")?;
    }
    Ok(())
}

/// The flags of `linux.rootfsPropagation`.
///
/// # Errors
/// It is none.
pub fn propagation(spec: &Spec) -> Result<Option<MsFlags>> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let Some(name) = asked.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let flags = options::propagation(name);
    flags.map(Some).ok_or_else(|| Error::Invalid(format!("linux.rootfsPropagation {name:?}")))
}

/// Makes the root this process's working directory: the one path that goes along when the process
/// gets another mount namespace.
pub fn stand_in(root: Root) -> Result<()> {
    fchdir(root.fd().as_fd()).doing(|| "enter the container's root")
}

/// Moves this process into a mount namespace that belongs to its user namespace, and returns the
/// working directory as the root.
///
/// What is copied into such a namespace is locked in its place, so that no root could be made of
/// it: it is mounted once more.
pub fn move_into_own_namespace() -> Result<Root> {
    let action = || "make a mount namespace of the user namespace";
    unshare(CloneFlags::CLONE_NEWNS).doing(action)?;
    let tree = Tree::copy(Root::open(".")?.fd(), true).doing(action)?;
    tree.attach(Root::open(".")?.fd()).doing(action)?;
    // The working directory is below the new mount: only its name leads to the top.
    Root::open(nix::unistd::getcwd().doing(action)?)
}

/// Makes it this process's root, leaves nothing of the old one in the mount namespace, and sets
/// its propagation: a shared mount cannot be made the root.
pub fn enter(spec: &Spec, root: Root) -> Result<()> {
    fchdir(root.fd().as_fd()).doing(|| "enter the new root")?;
    // Stacks the old root on the new one: no directory is needed for it.
    pivot_root(".", ".").doing(|| "pivot to the new root")?;
    umount2(".", MntFlags::MNT_DETACH).doing(|| "detach the old root")?;
    nix::unistd::chdir("/").doing(|| "enter the new root")?;
    match propagation(spec)? {
        None => Ok(()),
        Some(flags) => {
            mount_call(NONE, "/", NONE, flags, NONE).doing(|| "set linux.rootfsPropagation")
        }
    }
}
