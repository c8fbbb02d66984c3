//! A tree of files becomes an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};

use super::MOUNT_POINTS;
use super::entry::{Entry, Kind};
use super::walk::{Found, WalkError, kind, lossy, walk};

/// Files with several names that are remembered; more of them are packed once for each name.
const MAX_LINKS: usize = 1 << 16;

/// What marks the name of a file that a layer takes away.
const WHITEOUT: &[u8] = b".wh.";

/// In a directory: nothing of the layers below is in it.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// With which an overlay marks such a directory.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Largest value of an extended attribute, and largest list of their names, in bytes: Linux's.
const ATTRIBUTE: usize = 64 << 10;

/// What is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Files, without their extended attributes.
    Files,
    /// Files with those of their extended attributes that mean something elsewhere, too.
    Attributes,
    /// The upper directory of an overlay, as a layer of an image.
    Layer,
}

/// Who is to own what is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As it is.
    Kept,
    /// User 0 and group 0.
    Root,
}

/// Why a tree cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// a file cannot be read
    #[error("cannot read {path:?}")]
    File {
        /// its name
        path: String,
        /// why
        #[source]
        source: io::Error,
    },
    /// the archive cannot be written
    #[error("cannot write the archive")]
    Archive(#[source] io::Error),
}

/// Packs trees into one archive.
pub struct Packer<W: Write> {
    archive: tar::Builder<W>,
    contents: Contents,
    owners: Owners,
    /// Files with further names, by device and number.
    links: BTreeMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> std::fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("contents", &self.contents).finish_non_exhaustive()
    }
}

impl<W: Write> Packer<W> {
    /// Packs into what `to` gets.
    pub fn new(to: W, contents: Contents, owners: Owners) -> Self {
        Self { archive: tar::Builder::new(to), contents, owners, links: BTreeMap::new() }
    }

    /// Packs a file (`O_PATH`) under the name `path`, and all that is below it.
    pub fn tree(&mut self, top: OwnedFd, path: Vec<u8>) -> Result<(), WalkError<PackError>> {
        walk(top, path, &mut |found| self.add(found))
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W, PackError> {
        self.archive.into_inner().map_err(PackError::Archive)
    }

    fn add(&mut self, found: &Found<'_>) -> Result<(), PackError> {
        let failed =
            |errno: Errno| PackError::File { path: lossy(found.path), source: errno.into() };
        let is_layer = self.contents == Contents::Layer;
        if is_layer && (last(found.path).starts_with(WHITEOUT) || is_mount_point(found)) {
            return Ok(());
        }
        let device = || device(&found.stat);
        let entry_kind = match found.kind() {
            SFlag::S_IFDIR => return self.directory(found),
            SFlag::S_IFREG => return self.file(found),
            SFlag::S_IFLNK => Kind::Symlink,
            SFlag::S_IFCHR if is_layer && found.stat.st_rdev == 0 => {
                return self.whiteout(found, last(found.path));
            }
            SFlag::S_IFCHR => Kind::Character(device().0, device().1),
            SFlag::S_IFBLK => Kind::Block(device().0, device().1),
            SFlag::S_IFIFO => Kind::Fifo,
            // A socket without who listens at it is nothing.
            _ => return Ok(()),
        };
        let mut entry = self.entry(found.path, entry_kind, &found.stat);
        if entry_kind == Kind::Symlink {
            entry.link = readlinkat(found.file, "").map_err(failed)?.into_vec();
        }
        self.write(&entry, io::empty())
    }

    fn directory(&mut self, found: &Found<'_>) -> Result<(), PackError> {
        let mut entry = self.entry(found.path, Kind::Directory, &found.stat);
        let Some(directory) = found.directory else { return Ok(()) };
        entry.xattrs = self.attributes(directory, found.path)?;
        self.write(&entry, io::empty())?;
        if self.contents == Contents::Layer && is_opaque(directory) {
            let opaque = super::walk::join(found.path, OPAQUE);
            return self.mark(opaque, &found.stat);
        }
        Ok(())
    }

    fn file(&mut self, found: &Found<'_>) -> Result<(), PackError> {
        let failed =
            |errno: Errno| PackError::File { path: lossy(found.path), source: errno.into() };
        if found.stat.st_nlink > 1 {
            let number = (found.stat.st_dev, found.stat.st_ino);
            if let Some(first) = self.links.get(&number) {
                let link = first.clone();
                let entry = self.entry(found.path, Kind::HardLink, &found.stat);
                return self.write(&Entry { link, ..entry }, io::empty());
            }
            if self.links.len() < MAX_LINKS {
                self.links.insert(number, found.path.to_vec());
            }
        }
        let file = match found.open() {
            // It was removed just now.
            Err(Errno::ENOENT) => return Ok(()),
            file => file.map_err(failed)?,
        };
        // What is read is as long as it is now.
        let stat = fstat(&file).map_err(failed)?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(failed(Errno::EINVAL));
        }
        let mut entry = self.entry(found.path, Kind::File, &stat);
        entry.xattrs = self.attributes(&file, found.path)?;
        self.write(&entry, File::from(file))
    }

    /// The mark of a name that is no more.
    fn whiteout(&mut self, found: &Found<'_>, name: &[u8]) -> Result<(), PackError> {
        let directory = found.path.get(..found.path.len() - name.len()).unwrap_or_default();
        self.mark([directory, WHITEOUT, name].concat(), &found.stat)
    }

    fn mark(&mut self, path: Vec<u8>, stat: &FileStat) -> Result<(), PackError> {
        let entry = Entry { size: 0, mode: 0o600, ..self.entry(&path, Kind::File, stat) };
        self.write(&entry, io::empty())
    }

    fn write(&mut self, entry: &Entry, data: impl io::Read) -> Result<(), PackError> {
        entry.write(&mut self.archive, data).map_err(PackError::Archive)
    }

    fn entry(&self, path: &[u8], kind: Kind, stat: &FileStat) -> Entry {
        let (uid, gid) = match self.owners {
            Owners::Kept => (stat.st_uid, stat.st_gid),
            Owners::Root => (0, 0),
        };
        Entry {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: stat.st_mtime,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            xattrs: Vec::new(),
        }
    }

    /// Extended attributes that are not about the file system that they are in.
    fn attributes(
        &self,
        file: &impl AsFd,
        path: &[u8],
    ) -> Result<Vec<(String, Vec<u8>)>, PackError> {
        if self.contents == Contents::Files {
            return Ok(Vec::new());
        }
        let failed =
            |errno: rustix::io::Errno| PackError::File { path: lossy(path), source: errno.into() };
        let mut buffer = Vec::new();
        let names = match value(&mut buffer, |into| rustix::fs::flistxattr(file, into)) {
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
            names => names.map_err(failed)?,
        };
        let mut attributes = Vec::new();
        for name in names.split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok()) {
            if name != "security.capability"
                && (!name.starts_with("user.") || name.starts_with("user.overlay."))
            {
                continue;
            }
            match value(&mut buffer, |into| rustix::fs::fgetxattr(file, name, into)) {
                // It was removed just now.
                Err(rustix::io::Errno::NODATA) => {}
                value => attributes.push((name.to_owned(), value.map_err(failed)?)),
            }
        }
        Ok(attributes)
    }
}

/// What a system call fills a buffer with.
fn value(
    buffer: &mut Vec<u8>,
    get: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    buffer.resize(ATTRIBUTE, 0);
    let length = get(buffer.as_mut_slice())?;
    Ok(buffer.get(..length).unwrap_or_default().to_vec())
}

/// Whether this is in an overlay's upper directory for something to be mounted on it: an image that had it is
/// below, and what containers write there goes to what is mounted. So it is empty.
fn is_mount_point(found: &Found<'_>) -> bool {
    let is_it = |point: &&str| point.as_bytes().strip_prefix(b"/") == Some(found.path);
    if !MOUNT_POINTS.iter().any(is_it) {
        return false;
    }
    match found.directory {
        Some(directory) => !is_opaque(directory) && is_empty(directory),
        None => found.kind() == SFlag::S_IFREG && found.stat.st_size == 0,
    }
}

/// What cannot be looked into may hold something.
fn is_empty(directory: &OwnedFd) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let own = |name: &[u8]| matches!(name, b"." | b"..");
    Dir::openat(directory, ".", flags, Mode::empty()).is_ok_and(|entries| {
        entries.into_iter().all(|entry| entry.is_ok_and(|entry| own(entry.file_name().to_bytes())))
    })
}

/// Whether nothing of the layers below is in a directory of an overlay's upper one.
pub fn is_opaque(directory: &impl AsFd) -> bool {
    let mut mark = [0u8; 1];
    let read = rustix::fs::fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut mark[..]);
    read == Ok(1) && mark == *b"y"
}

fn device(stat: &FileStat) -> (u32, u32) {
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    (number(major(stat.st_rdev)), number(minor(stat.st_rdev)))
}

fn last(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// Names of what is packed of a directory.
    fn packed(top: &Path, contents: Contents) -> Vec<String> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(top, flags, Mode::empty()).unwrap();
        let mut packer = Packer::new(Vec::new(), contents, Owners::Kept);
        packer.tree(opened, b".".to_vec()).unwrap();
        let archive = packer.finish().unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .map(|name| name.trim_end_matches('/').to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_layer_is_without_what_was_made_to_mount_something_on() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for directory in ["dev", "proc", "sys", "etc", "srv/proc"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/other", "hosts"] {
            fs::write(path(file), "").unwrap();
        }
        assert_eq!(
            packed(top.path(), Contents::Layer),
            [".", "etc", "etc/other", "hosts", "srv", "srv/proc"]
        );
        assert!(packed(top.path(), Contents::Files).contains(&"etc/hosts".to_owned()));
        // What is not empty is nobody's mount point.
        fs::write(path("etc/hosts"), "127.0.0.1 localhost").unwrap();
        fs::write(path("sys/own"), "").unwrap();
        fs::remove_file(path("etc/resolv.conf")).unwrap();
        symlink("/run/resolv.conf", path("etc/resolv.conf")).unwrap();
        let all = packed(top.path(), Contents::Layer);
        for name in ["etc/hosts", "etc/resolv.conf", "sys", "sys/own"] {
            assert!(all.contains(&name.to_owned()), "{name}: {all:?}");
        }
    }
}
