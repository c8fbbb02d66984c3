//! What a guest sees of the host's directories and files while it runs, and then no more.
//!
//! A tree is a mount namespace with nothing in it but a file system in memory, its top, and a mount for
//! each share. No process is in it: its keeper holds it by a descriptor, and enters it with a thread for
//! as long as a change takes. When the keeper is gone, however it went, so is the namespace with all of
//! its mounts.
//!
//! The monitor has the top's descriptor, and no more. Paths go from a mount to those that are attached to
//! it, whosever namespace that is in: the guest sees a share as soon as it is added. What the guest still
//! knows of one that was removed, it can no longer open.
//!
//! The guest can write to shares, but not to the top: that is mounted read-only, and places for mounts are
//! made through a second mount of the same file system, which is attached nowhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, fchdir, unlinkat};

use super::launch::SHARE;
use crate::mounts::{
    NODEV, NOEXEC, NOSUID, RDONLY, become_root, clone_tree, move_mount, set_attributes, tmpfs,
};
use crate::vmm::config::Share;
use crate::vmm::devices::virtio::fs::{self, FsError};

/// A tree that cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum SharedTreeError {
    /// the kernel refused a namespace, or what is in it
    #[error("cannot make a mount namespace for what a sandbox shares")]
    Make(#[source] io::Error),
    /// what is to be shared
    #[error(transparent)]
    Share(#[from] FsError),
    /// a share of that name is there
    #[error("there is a share {0:?} already")]
    Exists(String),
    /// no share of that name is there
    #[error("there is no share {0:?}")]
    Missing(String),
    /// the kernel refused a change
    #[error("cannot {what} the share {name:?}")]
    Change {
        /// what was attempted
        what: &'static str,
        /// to which share
        name: String,
        /// why it failed
        #[source]
        source: io::Error,
    },
}

/// The tree of one sandbox. Dropping it takes all shares from the guest.
#[derive(Debug)]
pub struct SharedTree {
    namespace: File,
    top: Arc<OwnedFd>,
    /// The top once more, to make and remove places for mounts.
    places: OwnedFd,
}

impl SharedTree {
    /// An empty one.
    ///
    /// # Errors
    /// This process may not have a mount namespace of its own.
    pub fn new() -> Result<Self, SharedTreeError> {
        on_a_thread(|| {
            fs::own_mounts()?;
            Self::make().map_err(SharedTreeError::Make)
        })
        .map_err(SharedTreeError::Make)?
    }

    /// On a thread that is alone with its mounts, and will lose them.
    fn make() -> io::Result<Self> {
        let namespace = File::open("/proc/thread-self/ns/mnt")?;
        // To the namespace's own root: that of this process may be a directory somewhere in it, and `..`
        // of what is mounted there would lead on.
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        let top = tmpfs()?;
        move_mount(top.as_fd(), AT_FDCWD, c"/")?;
        let places = clone_tree(top.as_fd(), c"", libc::AT_EMPTY_PATH)?;
        // Attributes of this mount alone: what is mounted on it has its own.
        set_attributes(top.as_fd(), 0, RDONLY | NOSUID | NODEV | NOEXEC)?;
        become_root(top.as_fd())?;
        Ok(Self { namespace, top: Arc::new(top), places })
    }

    /// The top, for [`super::launch::Backing`].
    pub fn top(&self) -> &Arc<OwnedFd> {
        &self.top
    }

    /// Lets the guest see a directory or a file as the top's entry `name`, with all that is mounted in
    /// it now.
    pub fn add(&self, name: &str, share: &Share) -> Result<(), SharedTreeError> {
        let entry = fs::entry_name(SHARE, name)?;
        let root = fs::clone_share(SHARE, share)?;
        let failed = |source| SharedTreeError::Change { what: "add", name: name.into(), source };
        let directory = fs::is_directory(&root).map_err(failed)?;
        fs::mount_point(self.places.as_fd(), &entry, directory).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EEXIST) => SharedTreeError::Exists(name.into()),
                _ => failed(error),
            }
        })?;
        let attached = self.inside(|| move_mount(root.as_fd(), self.top.as_fd(), &entry));
        attached.map_err(|error| {
            let _ = self.remove_place(name);
            failed(error)
        })
    }

    /// Takes an entry away. Files that processes of the guest have open stay open; nothing else of
    /// it can be reached any more.
    pub fn remove(&self, name: &str) -> Result<(), SharedTreeError> {
        fs::entry_name(SHARE, name)?;
        let failed = |source| SharedTreeError::Change { what: "remove", name: name.into(), source };
        let detached = self.inside(|| {
            fchdir(self.top.as_fd())?;
            Ok(umount2(name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
        });
        match detached.map_err(|error| error.raw_os_error()) {
            // EINVAL: nothing is mounted there, as after a removal that got so far.
            Ok(()) | Err(Some(libc::EINVAL)) => {}
            Err(Some(libc::ENOENT)) => return Err(SharedTreeError::Missing(name.into())),
            Err(errno) => {
                return Err(failed(io::Error::from_raw_os_error(errno.unwrap_or(libc::EIO))));
            }
        }
        self.remove_place(name).map_err(failed)
    }

    fn remove_place(&self, name: &str) -> io::Result<()> {
        let place = fstatat(&self.places, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let kind = SFlag::from_bits_truncate(place.st_mode) & SFlag::S_IFMT;
        let how = match kind {
            SFlag::S_IFDIR => UnlinkatFlags::RemoveDir,
            _ => UnlinkatFlags::NoRemoveDir,
        };
        Ok(unlinkat(&self.places, name, how)?)
    }

    /// Does something in the namespace: mounts are attached and detached by those who are in it.
    fn inside(&self, act: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
        on_a_thread(|| {
            // Who shares root and working directory with other threads cannot go elsewhere alone.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
            act()
        })?
    }
}

/// On a thread of its own: namespaces are a thread's.
fn on_a_thread<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("shares".into()).spawn_scoped(scope, act)?;
        thread.join().map_err(|_| Errno::ECANCELED.into())
    })
}

#[cfg(test)]
mod tests;
