//! Paths inside a container's root.
//!
//! The image decides what is a symlink there. Everything is looked up by the kernel with
//! `RESOLVE_IN_ROOT`, so that no symlink and no `..` leads outside, and used by descriptor.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::error::{Doing, Error, Result};

/// Most components of a path that is created.
const MAX_DEPTH: usize = 256;

/// The directory that is, or becomes, a container's `/`.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl AsRawFd for Root {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Root> for OwnedFd {
    fn from(root: Root) -> Self {
        root.0
    }
}

impl Root {
    /// Opens it, where the caller sees it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty());
        Ok(Self(fd.doing(|| format!("open {}", path.display()))?))
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Opens a path of the container.
    pub fn open_in(&self, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_mode(path.as_ref(), flags, Mode::empty())
    }

    /// Opens (as `O_PATH`) what the root file system itself has at a path; `EXDEV` where something
    /// is mounted on the way or there. A link at its end is not followed.
    pub fn open_own(&self, path: impl AsRef<Path>) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        self.resolve(path.as_ref(), flags, Mode::empty(), ResolveFlag::RESOLVE_NO_XDEV)
    }

    fn open_mode(&self, path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
        self.resolve(path, flags, mode, ResolveFlag::empty())
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlag,
        mode: Mode,
        further: ResolveFlag,
    ) -> nix::Result<OwnedFd> {
        let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how =
            OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(inside | further);
        loop {
            // EAGAIN: something was renamed while the kernel looked, so it cannot be sure.
            match openat2(&self.0, relative(path), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// Opens a directory of the container; it and those that it is in are made where they are
    /// missing (mode 0755).
    pub fn make_directory(&self, path: &Path) -> Result<OwnedFd> {
        let clean = checked(path)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut done = PathBuf::from("/");
        let mut current = self.open_in(&done, flags).doing(|| "open the container's root")?;
        for name in &clean {
            done.push(name);
            let action = || format!("make the container's directory {}", done.display());
            current = match self.open_in(&done, flags) {
                Err(Errno::ENOENT) => {
                    // `current` is the directory that the path before this component leads to.
                    match mkdirat(&current, name.as_path(), Mode::from_bits_truncate(0o755)) {
                        // Another container with the same root was faster: it is opened as a
                        // directory, or not at all.
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(errno).doing(action),
                    }
                    self.open_in(&done, flags).doing(action)?
                }
                result => result.doing(action)?,
            };
        }
        Ok(current)
    }

    /// Opens (as `O_PATH`) what is at a path of the container; an empty file is made where nothing
    /// is.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd> {
        let action = || format!("make the container's file {}", path.display());
        match self.open_in(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            result => return result.doing(action),
        }
        self.make_parent(path)?;
        let flags = OFlag::O_CREAT | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        drop(self.open_mode(path, flags, Mode::from_bits_truncate(0o644)).doing(action)?);
        self.open_in(path, OFlag::O_PATH).doing(action)
    }

    /// The directory that a path of the container is in, made where it is missing, and the path's
    /// last component.
    pub fn make_parent(&self, path: &Path) -> Result<(OwnedFd, PathBuf)> {
        let mut clean = checked(path)?;
        let name = clean
            .pop()
            .ok_or_else(|| Error::Invalid(format!("{} names no file", path.display())))?;
        let parent: PathBuf = std::iter::once(PathBuf::from("/")).chain(clean).collect();
        Ok((self.make_directory(&parent)?, name))
    }
}

/// The path's components, as they are walked when something is made on the way.
///
/// # Errors
/// There is a `..` among them (what it means depends on symlinks), or there are too many.
fn checked(path: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) if names.len() < MAX_DEPTH => names.push(PathBuf::from(name)),
            _ => {
                return Err(Error::Invalid(format!("the container's path {}", path.display())));
            }
        }
    }
    Ok(names)
}

/// `openat2` takes absolute paths under `RESOLVE_IN_ROOT`, but no empty ones.
fn relative(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("/") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let root = Root::open(directory.path().join("root")).unwrap();
        (directory, root)
    }

    #[test]
    fn directories_are_made_through_links_that_stay_inside() {
        let (directory, root) = root();
        let inside = directory.path().join("root");
        symlink("/run", inside.join("var-run")).unwrap();
        fs::create_dir(inside.join("run")).unwrap();
        root.make_directory(Path::new("/var-run/a/b")).unwrap();
        assert!(inside.join("run/a/b").is_dir());
    }

    #[test]
    fn links_that_point_outside_are_followed_inside() {
        let (directory, root) = root();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let inside = directory.path().join("root");
        symlink("../outside", inside.join("up")).unwrap();
        symlink(&outside, inside.join("absolute")).unwrap();
        for link in ["/up/made", "/absolute/made"] {
            // The link's target is not there inside the root, so nothing can be made in it.
            assert!(root.make_directory(Path::new(link)).is_err());
            assert!(root.make_file(Path::new(link)).is_err());
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_made_once() {
        let (directory, root) = root();
        root.make_file(Path::new("/etc/hosts")).unwrap();
        fs::write(directory.path().join("root/etc/hosts"), "kept").unwrap();
        root.make_file(Path::new("/etc/hosts")).unwrap();
        let text = fs::read_to_string(directory.path().join("root/etc/hosts")).unwrap();
        assert_eq!(text, "kept");
    }

    #[test]
    fn dots_are_refused() {
        let (_directory, root) = root();
        assert!(root.make_directory(Path::new("/a/../b")).is_err());
        assert!(root.make_parent(Path::new("/")).is_err());
    }

    proptest! {
        #[test]
        fn nothing_is_made_outside(parts in prop::collection::vec("[a-c]|\\.\\.|\\.|link", 1..6)) {
            let (directory, root) = root();
            symlink("../..", directory.path().join("root/link")).unwrap();
            let _ = root.make_directory(Path::new(&parts.join("/")));
            let _ = root.make_file(Path::new(&parts.join("/")));
            prop_assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }
}
