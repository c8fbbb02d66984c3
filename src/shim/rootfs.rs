//! The root file system of a container: the mounts that containerd's snapshotter names.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use containerd_shim::mount::mount_rootfs;
use containerd_shim::protos::api::Mount;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::error::{ShimError, file, host};

/// Folder of a bundle that a root file system is mounted at, where its `config.json` names no other.
pub const FOLDER: &str = "rootfs";

/// Most mounts at one place that are taken away.
const MOST_MOUNTS: usize = 128;

/// A root file system that was mounted for a container. Dropping it unmounts it.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

/// A root file system as it comes.
#[derive(Debug)]
pub enum Rootfs {
    /// A directory: it was mounted, or was there already.
    Directory(Option<Mounted>),
    /// A file system on a disk, which the guest mounts by itself.
    Disk(Disk),
}

/// A disk with a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The device, or the file.
    pub path: PathBuf,
    /// `ext4` or `erofs`.
    pub fstype: String,
    /// Options of the mount.
    pub options: Vec<String>,
    /// Whether nothing is written to it.
    pub read_only: bool,
}

/// File systems that guests can mount.
const OF_GUESTS: [&str; 2] = ["ext4", "erofs"];

/// Mounts what is named below `bundle`, or leaves it to the guest.
pub fn prepare(mounts: &[Mount], bundle: &Path) -> Result<Rootfs, ShimError> {
    if let [only] = mounts
        && let Some(disk) = disk(only)
    {
        return Ok(Rootfs::Disk(disk));
    }
    if mounts.is_empty() {
        return Ok(Rootfs::Directory(None));
    }
    let at = bundle.join(FOLDER);
    fs::create_dir_all(&at).map_err(file("create", &at))?;
    let mounted = Mounted { at: at.clone() };
    // A long list of layers is mounted from another working directory, which a thread takes with it.
    thread::scope(|scope| {
        let mount_all = || {
            mounts.iter().try_for_each(|mount| {
                let some = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
                let (kind, source) = (some(&mount.type_), some(&mount.source));
                mount_rootfs(kind.as_deref(), source.as_deref(), &mount.options, &at)
            })
        };
        scope.spawn(mount_all).join()
    })
    .map_err(|_| host("mount the root file system")(Errno::EINVAL))??;
    Ok(Rootfs::Directory(Some(mounted)))
}

/// The disk that a mount is of, where a guest can mount it itself.
fn disk(mount: &Mount) -> Option<Disk> {
    if !OF_GUESTS.contains(&mount.type_.as_str()) {
        return None;
    }
    // `loop` says that it is a file; what remains is for the file system.
    let has = |name: &str| mount.options.iter().any(|option| option == name);
    let read_only = has("ro") || mount.type_ == "erofs";
    let own = |option: &&String| !matches!(option.as_str(), "loop" | "ro" | "rw");
    let options = mount.options.iter().filter(own).cloned().collect();
    Some(Disk { path: (&mount.source).into(), fstype: mount.type_.clone(), options, read_only })
}

/// Unmounts everything that is mounted at `at`; nothing to do where nothing is.
pub fn unmount(at: &Path) -> Result<(), ShimError> {
    for _ in 0..MOST_MOUNTS {
        match umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(file("unmount", at)(errno.into())),
        }
    }
    Ok(())
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.at) {
            log::warn!("{}", crate::report::chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            type_: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_a_guest_can_mount_is_left_to_it() {
        let found = disk(&mount("ext4", "/dev/mapper/x", &["rw", "discard", "loop"])).unwrap();
        assert_eq!((found.read_only, found.options), (false, vec!["discard".to_owned()]));
        assert!(disk(&mount("erofs", "/l.erofs", &["loop"])).unwrap().read_only);
        assert!(disk(&mount("overlay", "overlay", &["lowerdir=/a:/b"])).is_none());
        assert!(disk(&mount("bind", "/a", &["rbind"])).is_none());
    }

    #[test]
    fn nothing_is_mounted_where_nothing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(prepare(&[], folder.path()).unwrap(), Rootfs::Directory(None)));
        assert!(unmount(&folder.path().join("rootfs")).is_ok());
    }
}
