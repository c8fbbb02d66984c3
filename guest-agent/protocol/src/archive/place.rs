//! Entries become files below a directory, which nothing leads out of.
//!
//! Every name is looked up by the kernel below the directory, part by part; what is at its end is never
//! followed. Nothing is written to a file that was there: it is taken away before.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use rustix::fs::{XattrFlags, setxattr};

use super::entry::{Entry, Kind};
use super::walk::{kind, lossy, path_of};

/// What of the entries' is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Owner and group; else they are whoever makes the files.
    pub owners: bool,
    /// Set-user-id and set-group-id.
    pub set_ids: bool,
    /// Devices; else they are left out.
    pub devices: bool,
    /// Extended attributes.
    pub attributes: bool,
}

/// Why an entry does not become a file.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// something else is there, and has files in it
    #[error("cannot overwrite directory {0:?} with non-directory")]
    Directory(String),
    /// something else is there
    #[error("cannot overwrite non-directory {0:?} with directory")]
    NotDirectory(String),
    /// a name that is none
    #[error("{0:?} is no name of a file")]
    Name(String),
    /// a second name of something that is no file of the archive
    #[error("{path:?} is another name of {target:?}, which is not in the archive")]
    Link {
        /// the second name
        path: String,
        /// the first
        target: String,
    },
    /// the file system refuses
    #[error("cannot write {path:?}")]
    File {
        /// the name
        path: String,
        /// why
        #[source]
        source: io::Error,
    },
}

/// A directory that entries are placed in.
#[derive(Debug)]
pub struct Place {
    /// What names are looked up in.
    root: OwnedFd,
    /// The directory, below that.
    below: PathBuf,
    how: ResolveFlag,
    rules: Rules,
    /// Directories, which get mode and time when all is in them.
    directories: Vec<Entry>,
    /// Devices and numbers of files that were made, which may get further names.
    made: BTreeSet<(u64, u64)>,
}

impl Place {
    /// The directory itself; no link in it is followed.
    pub fn directory(directory: OwnedFd, rules: Rules) -> Self {
        let how = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Self::new(directory, PathBuf::from("."), how, rules)
    }

    /// The directory `below` in a root; links are followed in that, as those see it who have it for a root.
    pub fn in_root(root: OwnedFd, below: &Path, rules: Rules) -> Self {
        let how = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Self::new(root, Path::new("/").join(below), how, rules)
    }

    fn new(root: OwnedFd, below: PathBuf, how: ResolveFlag, rules: Rules) -> Self {
        let (directories, made) = (Vec::new(), BTreeSet::new());
        Self { root, below, how, rules, directories, made }
    }

    fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(self.how);
        loop {
            // EAGAIN: something was renamed while the kernel looked, so it cannot be sure.
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// The directory that an entry is to be in, and its name there; no name for the directory itself. What is
    /// missing on the way is made.
    fn parent<'a>(&self, path: &'a [u8]) -> Result<Option<(OwnedFd, &'a Path)>, PlaceError> {
        let failed = |errno: Errno| failed(path, errno);
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(PlaceError::Name(lossy(path))),
                part if part.contains(&0) => return Err(PlaceError::Name(lossy(path))),
                part => parts.push(Path::new(std::ffi::OsStr::from_bytes(part))),
            }
        }
        let Some(name) = parts.pop() else { return Ok(None) };
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let whole = parts.iter().fold(self.below.clone(), |path, part| path.join(part));
        // Most often they are there.
        match self.open(&whole, directory) {
            Err(Errno::ENOENT) => {}
            parent => return Ok(Some((parent.map_err(failed)?, name))),
        }
        let mut way = self.below.clone();
        let mut current = self.open(&way, directory).map_err(failed)?;
        for part in parts {
            way.push(part);
            current = match self.open(&way, directory) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&current, part, Mode::from_bits_truncate(0o755)) {
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                    self.open(&way, directory).map_err(failed)?
                }
                opened => opened.map_err(failed)?,
            };
        }
        Ok(Some((current, name)))
    }

    /// Makes the place free for an entry: whether a directory is there for one.
    fn clear(&self, parent: &OwnedFd, name: &Path, entry: &Entry) -> Result<bool, PlaceError> {
        let found = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(false),
            found => found.map_err(|errno| failed(&entry.path, errno))?,
        };
        match (kind(&found) == SFlag::S_IFDIR, entry.kind == Kind::Directory) {
            (true, true) => Ok(true),
            (true, false) => Err(PlaceError::Directory(lossy(&entry.path))),
            (false, true) => Err(PlaceError::NotDirectory(lossy(&entry.path))),
            (false, false) => match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(false),
                Err(errno) => Err(failed(&entry.path, errno)),
            },
        }
    }

    /// Makes an empty file for an entry of [`Kind::File`]; [`Place::seal`] it when its data are in it.
    pub fn file(&mut self, entry: &Entry) -> Result<File, PlaceError> {
        let failed = |errno: Errno| failed(&entry.path, errno);
        let Some((parent, name)) = self.parent(&entry.path)? else {
            return Err(PlaceError::Directory(lossy(&entry.path)));
        };
        self.clear(&parent, name, entry)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = nix::fcntl::openat(&parent, name, flags, mode).map_err(failed)?;
        let made = fstat(&file).map_err(failed)?;
        self.made.insert((made.st_dev, made.st_ino));
        Ok(file.into())
    }

    /// Gives a file that is whole what else the entry says of it.
    pub fn seal(&self, file: File, entry: &Entry) -> Result<(), PlaceError> {
        self.dress(&file.into(), entry)
    }

    /// Makes what is no file: false where it is left out.
    pub fn other(&mut self, entry: &Entry) -> Result<bool, PlaceError> {
        let failed = |errno: Errno| failed(&entry.path, errno);
        let is_device = matches!(entry.kind, Kind::Character(..) | Kind::Block(..));
        if is_device && !self.rules.devices {
            return Ok(false);
        }
        let Some((parent, name)) = self.parent(&entry.path)? else {
            // The directory itself stays what it is.
            return match entry.kind {
                Kind::Directory => Ok(true),
                _ => Err(PlaceError::Directory(lossy(&entry.path))),
            };
        };
        if entry.kind == Kind::HardLink {
            return self.link(entry, &parent, name);
        }
        let is_there = self.clear(&parent, name, entry)?;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let node = |kind, device| mknodat(&parent, name, kind, mode, device);
        let number = |major: u32, minor: u32| makedev(major.into(), minor.into());
        match entry.kind {
            Kind::Directory => {
                if !is_there {
                    mkdirat(&parent, name, Mode::S_IRWXU).map_err(failed)?;
                }
                self.directories.push(entry.clone());
                return Ok(true);
            }
            Kind::Symlink => {
                symlinkat(Path::new(std::ffi::OsStr::from_bytes(&entry.link)), &parent, name)
            }
            Kind::Fifo => node(SFlag::S_IFIFO, 0),
            Kind::Character(major, minor) => node(SFlag::S_IFCHR, number(major, minor)),
            Kind::Block(major, minor) => node(SFlag::S_IFBLK, number(major, minor)),
            Kind::File | Kind::HardLink => Err(Errno::EINVAL),
        }
        .map_err(failed)?;
        match entry.kind {
            Kind::Symlink => self.dress_link(&parent, name, entry).map_err(failed)?,
            _ => self.dress_in(&parent, name, entry)?,
        }
        Ok(true)
    }

    /// One more name of a file that was made here.
    fn link(&self, entry: &Entry, parent: &OwnedFd, name: &Path) -> Result<bool, PlaceError> {
        let missing = || PlaceError::Link { path: lossy(&entry.path), target: lossy(&entry.link) };
        let (from, target) = self.parent(&entry.link)?.ok_or_else(missing)?;
        let found = fstatat(&from, target, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|_| missing())?;
        if kind(&found) != SFlag::S_IFREG || !self.made.contains(&(found.st_dev, found.st_ino)) {
            return Err(missing());
        }
        self.clear(parent, name, entry)?;
        linkat(&from, target, parent, name, AtFlags::empty())
            .map_err(|errno| failed(&entry.path, errno))?;
        Ok(true)
    }

    /// Gives the directories their modes and times, the innermost first.
    pub fn finish(mut self) -> Result<(), PlaceError> {
        for entry in std::mem::take(&mut self.directories).iter().rev() {
            let Some((parent, name)) = self.parent(&entry.path)? else { continue };
            self.dress_in(&parent, name, entry)?;
        }
        Ok(())
    }

    /// Does so to what was made in a directory; nothing where somebody else has put something in its place.
    fn dress_in(&self, parent: &OwnedFd, name: &Path, entry: &Entry) -> Result<(), PlaceError> {
        let failed = |errno: Errno| failed(&entry.path, errno);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = match nix::fcntl::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            file => file.map_err(failed)?,
        };
        let found = kind(&fstat(&file).map_err(failed)?);
        let expected = match entry.kind {
            Kind::Directory => SFlag::S_IFDIR,
            Kind::Fifo => SFlag::S_IFIFO,
            Kind::Character(..) => SFlag::S_IFCHR,
            Kind::Block(..) => SFlag::S_IFBLK,
            Kind::Symlink | Kind::File | Kind::HardLink => return Ok(()),
        };
        if found == expected { self.dress(&file, entry) } else { Ok(()) }
    }

    /// What an entry says of a file. By the path of its descriptor: that leads to this file and no other, and
    /// can be had of every kind of file. Owner before mode, which a change of the owner takes bits from, and
    /// capabilities, which it takes away; the time last.
    fn dress(&self, file: &OwnedFd, entry: &Entry) -> Result<(), PlaceError> {
        let failed = |errno: Errno| failed(&entry.path, errno);
        let path = path_of(file);
        if self.rules.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            nix::unistd::chown(&path, Some(uid), Some(gid)).map_err(failed)?;
        }
        let bits = if self.rules.set_ids { 0o7777 } else { 0o1777 };
        let mode = Mode::from_bits_truncate(entry.mode & bits);
        fchmodat(AT_FDCWD, &path, mode, FchmodatFlags::FollowSymlink).map_err(failed)?;
        for (name, value) in entry.xattrs.iter().filter(|_| self.rules.attributes) {
            match setxattr(&path, name.as_str(), value, XattrFlags::empty()) {
                // Not every file system has them.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(Errno::from_raw(errno.raw_os_error()))),
            }
        }
        let time = TimeSpec::new(entry.mtime, 0);
        utimensat(AT_FDCWD, &path, &time, &time, UtimensatFlags::FollowSymlink).map_err(failed)
    }

    fn dress_link(&self, parent: &OwnedFd, name: &Path, entry: &Entry) -> nix::Result<()> {
        if self.rules.owners {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        let time = TimeSpec::new(entry.mtime, 0);
        utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
    }
}

fn failed(path: &[u8], errno: Errno) -> PlaceError {
    PlaceError::File { path: lossy(path), source: errno.into() }
}

#[cfg(test)]
mod tests;
