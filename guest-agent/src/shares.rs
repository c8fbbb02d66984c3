//! File systems that the host shares with the guest (virtio-fs), by their tags. Each is mounted
//! when it is first asked for, once for the whole sandbox.
//!
//! A share is the host's: the paths in it come with requests, and what is a symbolic link there is
//! up to everybody who may write to it. [`open`] is the one way into a share.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ampoule_protocol::SHARES;
use ampoule_protocol::message::{Create, Rootfs, RootfsSource};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use oci_spec::runtime::Spec;

use crate::error::{Doing, Error, Result};
use crate::log;

/// Longest tag of a virtio-fs device, in bytes (virtio 1.3, section 5.11.4).
const MAX_TAG: usize = 36;

/// What is read at once of a file that is read from its beginning on, in KiB. A request's way to the
/// host and back costs as much as copying some hundred KiB.
const READ_AHEAD_KIB: u32 = 512;

/// The shares that are mounted.
#[derive(Debug)]
pub struct Shares(Mutex<BTreeSet<String>>);

impl Shares {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Mounts every share that a container needs.
    pub fn mount_for(&self, create: &Create) -> Result<()> {
        if let RootfsSource::Share { tag, .. } = &create.rootfs.source {
            self.mount(tag)?;
        }
        let sources = create.spec.mounts().iter().flatten().filter_map(|m| m.source().as_deref());
        for source in sources {
            if let Some((tag, _)) = split(source)? {
                self.mount(tag)?;
            }
        }
        Ok(())
    }

    fn mount(&self, tag: &str) -> Result<()> {
        let path = place(tag)?;
        // Held while it is mounted: whoever comes second finds it there.
        let mut mounted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mounted.contains(tag) {
            return Ok(());
        }
        let action = || format!("mount the share {tag:?}");
        std::fs::create_dir_all(&path).doing(action)?;
        // Where there is no machine, whoever started the agent has mounted it.
        if !is_mounted(&path).doing(action)? {
            // Without nosuid and nodev: it may be an image, and devices are for rules to forbid.
            let flags = MsFlags::empty();
            mount(Some(tag), &path, Some("virtiofs"), flags, None::<&str>).doing(action)?;
            if let Err(error) = read_ahead(&path) {
                // Slower, and else the same.
                eprintln!("read-ahead of the share {tag:?} stays what it is: {error}");
            }
        }
        mounted.insert(tag.to_owned());
        Ok(())
    }
}

/// The entries of shares that a container has: of those, one that is a mount point of the host's is mounted
/// in the guest as soon as somebody goes there.
pub fn entries(rootfs: &Rootfs, spec: &Spec) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut add = |tag: &str, path: &Path| -> Result<()> {
        if let Some(Component::Normal(name)) = path.components().next() {
            found.insert(place(tag)?.join(name));
        }
        Ok(())
    };
    if let RootfsSource::Share { tag, path } = &rootfs.source {
        add(tag, path)?;
    }
    for source in spec.mounts().iter().flatten().filter_map(|mount| mount.source().as_deref()) {
        if let Some((tag, path)) = split(source)? {
            add(tag, path)?;
        }
    }
    Ok(found)
}

/// Lets go of what is mounted at an entry of a share, if anything is, and with it of all that the kernel
/// knows of the host's files there.
pub fn detach(path: &Path) {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // A single file, or not a mount point of the host's; or the host has taken it away.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => log::line(&format!("cannot unmount {}: {error}", path.display())),
    }
}

/// Has a mounted file system read further ahead than the kernel does for disks.
fn read_ahead(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = path.metadata()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(setting, READ_AHEAD_KIB.to_string())
}

/// Whether something is mounted on a directory.
fn is_mounted(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (own, parent) = (path.metadata()?, path.join("..").metadata()?);
    Ok(own.dev() != parent.dev())
}

/// Where a share is.
///
/// # Errors
/// The tag is not 1 to 36 of `[A-Za-z0-9_.-]`, or starts with `.` or `-`.
fn place(tag: &str) -> Result<PathBuf> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let valid = !tag.is_empty()
        && tag.len() <= MAX_TAG
        && !tag.starts_with(['.', '-'])
        && tag.chars().all(allowed);
    if valid {
        return Ok(Path::new(SHARES).join(tag));
    }
    Err(Error::Invalid(format!("{tag:?} is no tag of a share")))
}

/// The tag, and the path below it, of a path of the guest; none where it is in no share.
///
/// # Errors
/// It is among the shares but in none, or has a `..` in it.
pub fn split(path: &Path) -> Result<Option<(&str, &Path)>> {
    let Ok(inside) = path.strip_prefix(SHARES) else {
        return Ok(None);
    };
    let mut components = inside.components();
    match components.next() {
        Some(Component::Normal(tag)) if is_plain(components.as_path()) => {
            let tag = tag.to_str().unwrap_or_default();
            place(tag).map(|_| Some((tag, components.as_path())))
        }
        _ => Err(Error::Invalid(format!("{} is no path in a share", path.display()))),
    }
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|component| matches!(component, Component::Normal(_)))
}

/// Opens (as `O_PATH`) what is at a path of a share that is mounted.
///
/// # Errors
/// The path is not below the share: by itself, or by a symbolic link on it.
pub fn open(tag: &str, path: &Path) -> Result<OwnedFd> {
    if !is_plain(path) {
        return Err(Error::Invalid(format!("{} is no path in share {tag:?}", path.display())));
    }
    let action = || format!("open {:?} of share {tag:?}", path.display());
    let share = File::open(place(tag)?).doing(action)?;
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(beneath);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        // EAGAIN: something was renamed while the kernel looked, so it cannot be sure.
        match openat2(&share, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result.doing(action),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_behind_the_tag() {
        let share = |path: &str| format!("{SHARES}/{path}");
        let found = |path: &str| {
            split(Path::new(path)).map(|found| found.map(|(t, p)| (t.to_owned(), p.to_owned())))
        };
        assert_eq!(
            found(&share("b/etc/hosts")).unwrap().unwrap(),
            ("b".into(), "etc/hosts".into())
        );
        assert_eq!(found(&share("b")).unwrap().unwrap(), ("b".into(), "".into()));
        assert_eq!(found("/dev/null").unwrap(), None);
        assert_eq!(found(&format!("{SHARES}-not/b")).unwrap(), None);
        for path in ["", "../x", "b/../../x", "b/x/../y", ".hidden/x", "a b/x"] {
            assert!(matches!(found(&share(path)), Err(Error::Invalid(_))), "{path}");
        }
    }

    #[test]
    fn tags_are_single_harmless_path_components() {
        for bad in ["", ".", "..", "-o", "a/b", &"x".repeat(37)] {
            assert!(matches!(open(bad, Path::new("x")), Err(Error::Invalid(_))), "{bad}");
        }
        for bad in ["/etc", "../etc", "a/../../etc"] {
            assert!(matches!(open("tag", Path::new(bad)), Err(Error::Invalid(_))), "{bad}");
        }
    }
}
