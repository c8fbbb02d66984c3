//! What a container has changed of its root file system, as `docker diff` tells it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ampoule_protocol::archive::{pack, walk};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::failed;
use crate::container::Layer;
use crate::error::{Doing, Result};

/// Tells all changes: records of a kind, a path and a NUL.
pub fn tell(layer: &Layer, to: &mut dyn Write) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = nix::fcntl::openat(&layer.upper, ".", flags, Mode::empty());
    let top = top.doing(|| "open the container's layer")?;
    walk::walk(top, b".".to_vec(), &mut |found| change(layer, found, to))
        .map_err(|error| failed(&error))
}

fn change(layer: &Layer, found: &walk::Found<'_>, to: &mut dyn Write) -> io::Result<()> {
    if found.path == b"." {
        return Ok(());
    }
    if found.kind() == SFlag::S_IFCHR && found.stat.st_rdev == 0 {
        return record(b"D", found.path, to);
    }
    let Some(below) = lower(layer, found.path)? else {
        return record(b"A", found.path, to);
    };
    let both = walk::kind(&below.1) == SFlag::S_IFDIR && found.kind() == SFlag::S_IFDIR;
    let opaque = found.directory.filter(|directory| both && pack::is_opaque(directory));
    if !both || opaque.is_some() || !same(&below.1, &found.stat) {
        record(b"C", found.path, to)?;
    }
    match opaque {
        Some(upper) => replaced(&below.0, upper, found.path, to),
        None => Ok(()),
    }
}

/// What a directory no longer has that took the place of another.
fn replaced(lower: &OwnedFd, upper: &OwnedFd, path: &[u8], to: &mut dyn Write) -> io::Result<()> {
    let there = names(upper)?;
    for name in names(lower)?.difference(&there) {
        record(b"D", &walk::join(path, name), to)?;
    }
    Ok(())
}

fn names(directory: &impl AsFd) -> io::Result<BTreeSet<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let entries = Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

/// What the image has at a path.
fn lower(layer: &Layer, path: &[u8]) -> io::Result<Option<(OwnedFd, FileStat)>> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(&layer.lower, Path::new(OsStr::from_bytes(path)), how) {
        // A link or a file, where the layer has a directory.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
        Ok(file) => {
            let stat = fstat(&file)?;
            Ok(Some((file, stat)))
        }
    }
}

/// Whether a directory is in the layer for the sake of what is in it alone.
fn same(a: &FileStat, b: &FileStat) -> bool {
    let told = |stat: &FileStat| {
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec)
    };
    told(a) == told(b)
}

fn record(kind: &[u8], path: &[u8], to: &mut dyn Write) -> io::Result<()> {
    to.write_all(kind)?;
    to.write_all(path)?;
    to.write_all(b"\0")
}
