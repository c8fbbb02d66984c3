//! What a container's process looks like from the host.
//!
//! Callers do not only signal that process and wait for it: they join its namespaces by `/proc/PID/ns`,
//! to copy files into the container or to lay its network. The keeper's main thread is what they find
//! there; it does nothing else. Its network namespace is new, or the one that was named for the
//! container; what is in it is the guest's ([`super::network`]). Its root is the container's
//! root file system with the mounts that come from the host. The keeper's other threads, which do the
//! work, stay where the command was started.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, pivot_root};

/// What the main thread shows.
#[derive(Debug, Clone)]
pub enum Face {
    /// This network namespace; without one, a new one that has nothing in it.
    Network(Option<Arc<File>>),
    /// The container's root file system as its root.
    Root {
        /// Where that is.
        rootfs: PathBuf,
        /// What of the host is mounted in it, and where, in order.
        binds: Vec<(PathBuf, PathBuf)>,
    },
}

/// The way to the main thread.
#[derive(Debug, Clone)]
pub struct Mirror(Sender<(Face, Sender<io::Result<()>>)>);

/// The main thread's side.
#[derive(Debug)]
pub struct Stage(Receiver<(Face, Sender<io::Result<()>>)>);

/// Both sides.
pub fn pair() -> (Mirror, Stage) {
    let (ask, asked) = channel();
    (Mirror(ask), Stage(asked))
}

impl Mirror {
    /// Has the main thread take on this face.
    pub fn show(&self, face: Face) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let (answer, answered) = channel();
        self.0.send((face, answer)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        answered.recv().map_err(gone)?
    }
}

impl Stage {
    /// The main thread's life: it ends with the process.
    pub fn serve(&self) -> ! {
        while let Ok((face, answer)) = self.0.recv() {
            // Whoever asked may have given up.
            let _ = answer.send(take_on(&face));
        }
        // Whoever works ends the process.
        loop {
            std::thread::park();
        }
    }
}

fn take_on(face: &Face) -> io::Result<()> {
    match face {
        Face::Network(None) => Ok(unshare(CloneFlags::CLONE_NEWNET)?),
        Face::Network(Some(file)) => Ok(setns(file, CloneFlags::CLONE_NEWNET)?),
        Face::Root { rootfs, binds } => change_root(rootfs, binds),
    }
}

fn change_root(root: &Path, binds: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    for (source, target) in binds {
        // What cannot be shown, is not: the container has it all the same.
        let Some(target) = existing(root, target) else { continue };
        let _ = mount(Some(source), &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE);
    }
    chdir(root)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// A path of the container as the host sees it, where it is there and no link is on it.
fn existing(root: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for component in target.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => path.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
        if path.symlink_metadata().ok()?.is_symlink() {
            return None;
        }
    }
    // Paths with a zero byte are none.
    CString::new(path.as_os_str().as_bytes()).ok().map(|_| path)
}
