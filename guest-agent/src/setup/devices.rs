//! Device nodes and links below the container's `/dev`.
//!
//! OCI runtime specification, "Linux Container Configuration", sections "Devices" and "Default
//! Devices".

use std::path::{Path, PathBuf};

use ampoule_protocol::message::BlockDevice;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fchmodat, fstatat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::paths::Root;
use super::rootfs::STAGE;
use super::trees::Tree;
use super::users::UserNamespace;
use crate::error::{Doing, Error, Result};

/// Devices that every container has: path, major, minor.
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has: path, target.
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// A disk of the guest, and its number.
type Disk = (BlockDevice, libc::dev_t);

struct Node<'a> {
    path: &'a Path,
    kind: SFlag,
    device: libc::dev_t,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Devices that were made elsewhere, in the order of [`nodes`]: a user namespace's root may make
/// none.
#[derive(Debug)]
pub struct Made(Vec<Tree>);

/// Makes the devices for a container that has a user namespace, as the guest's root and out of
/// sight: they belong to the namespace's ids.
pub fn make_for(spec: &Spec, disks: &[Disk], users: &UserNamespace) -> Result<Made> {
    let action = || "make the devices";
    let stage = Path::new(STAGE);
    let none = None::<&str>;
    mount(Some("tmpfs"), stage, Some("tmpfs"), MsFlags::empty(), none).doing(action)?;
    let directory = Root::open(stage)?;
    let mut made = Vec::new();
    for (number, node) in nodes(spec, disks)?.into_iter().enumerate() {
        let name = PathBuf::from(number.to_string());
        let (uid, gid) = (users.uid(node.uid)?, users.gid(node.gid)?);
        let staged = Node { path: &name, uid: uid.as_raw(), gid: gid.as_raw(), ..node };
        make(&directory, &staged)?;
        let file = directory.open_in(&name, OFlag::O_PATH).doing(action)?;
        made.push(Tree::copy(&file, false).doing(action)?);
    }
    drop(directory);
    umount2(stage, MntFlags::MNT_DETACH).doing(action)?;
    Ok(Made(made))
}

/// Makes the default devices, the spec's and the links; unless `/dev` is a bind mount, which is
/// complete as it is; and disks. Those that were made already are only bound.
pub fn make_all(spec: &Spec, disks: &[Disk], root: &Root, made: Option<&Made>) -> Result<()> {
    for (number, node) in nodes(spec, disks)?.iter().enumerate() {
        match made.and_then(|made| made.0.get(number)) {
            None => make(root, node)?,
            Some(device) => {
                let target = root.make_file(node.path)?;
                device.attach(&target).doing(|| format!("bind {}", node.path.display()))?;
            }
        }
    }
    let links = if is_dev_bound(spec) { &[] } else { &LINKS[..] };
    for (path, target) in links {
        link(root, Path::new(path), target)?;
    }
    Ok(())
}

/// The devices of a container: the defaults that its spec does not describe itself, the spec's, and disks.
fn nodes<'a>(spec: &'a Spec, disks: &'a [Disk]) -> Result<Vec<Node<'a>>> {
    let disks = disks.iter().map(|(disk, number)| {
        let BlockDevice { path, mode, uid, gid, .. } = disk;
        let (mode, device) = (mode & 0o7777, *number);
        Ok(Node { path, kind: SFlag::S_IFBLK, device, mode, uid: *uid, gid: *gid })
    });
    if is_dev_bound(spec) {
        return disks.collect();
    }
    let configured = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    let configured = configured.unwrap_or_default();
    let is_default = |path: &Path| !configured.iter().any(|device| device.path() == path);
    let defaults = DEFAULT.into_iter().filter(|(path, ..)| is_default(Path::new(path)));
    let defaults = defaults.map(|(path, major, minor)| {
        let device = makedev(major, minor);
        let path = Path::new(path);
        Ok(Node { path, kind: SFlag::S_IFCHR, device, mode: 0o666, uid: 0, gid: 0 })
    });
    defaults.chain(configured.iter().map(node)).chain(disks).collect()
}

fn is_dev_bound(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let bound = mount.typ().as_deref() == Some("bind")
            || mount.options().iter().flatten().any(|o| o == "bind" || o == "rbind");
        bound && mount.destination() == Path::new("/dev")
    })
}

/// Refuses devices that only the host has.
///
/// # Errors
/// [`Error::Unsupported`] for those that the guest's kernel does not know, and for all disks: the
/// same number is another disk here. [`Error::Invalid`] for what is no device.
pub fn check(spec: &Spec) -> Result<()> {
    let configured = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref());
    for device in configured.unwrap_or_default() {
        let node = node(device)?;
        let (major, minor) = (device.major(), device.minor());
        let is_here = match node.kind {
            SFlag::S_IFIFO => true,
            SFlag::S_IFCHR => Path::new(&format!("/sys/dev/char/{major}:{minor}")).exists(),
            _ => false,
        };
        if !is_here {
            let path = node.path.display();
            return Err(Error::Unsupported(format!("the host's device {path} ({major}:{minor})")));
        }
    }
    Ok(())
}

fn node(device: &LinuxDevice) -> Result<Node<'_>> {
    let path = device.path().as_path();
    let invalid = || Error::Invalid(format!("device {}", path.display()));
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(invalid()),
    };
    let number = |value: i64| u64::try_from(value).map_err(|_| invalid());
    let device_number = if kind == SFlag::S_IFIFO {
        0
    } else {
        makedev(number(device.major())?, number(device.minor())?)
    };
    Ok(Node {
        path,
        kind,
        device: device_number,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn make(root: &Root, node: &Node<'_>) -> Result<()> {
    let action = || format!("make the device {}", node.path.display());
    let (directory, name) = root.make_parent(node.path)?;
    match mknodat(&directory, name.as_path(), node.kind, Mode::empty(), node.device) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let found = fstatat(&directory, name.as_path(), flags).doing(action)?;
            let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
            if kind != node.kind || found.st_rdev != node.device {
                return Err(Errno::EEXIST).doing(action);
            }
        }
        Err(e) => return Err(e).doing(action),
    }
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(&directory, name.as_path(), Some(uid), Some(gid), no_follow).doing(action)?;
    // Nobody else has this mount namespace yet, and the node is known to be no link.
    let mode = Mode::from_bits_truncate(node.mode);
    let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
    fchmodat(&directory, name.as_path(), mode, follow).doing(action)
}

fn link(root: &Root, path: &Path, target: &str) -> Result<()> {
    let (directory, name) = root.make_parent(path)?;
    match symlinkat(target, &directory, name.as_path()) {
        // What the image has there is the image's.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e).doing(|| format!("link {}", path.display())),
    }
}
