//! Disks for what containers write to their root file systems: sparse files with an ext4 of their own.
//!
//! ```text
//! <data>/layers/<size>.blank           what a new file system of that size begins with, made once
//! <data>/containers/<id>/layer.img     a container's disk
//! ```
//!
//! A new file system is a few blocks in a large hole. mke2fs makes it in memory, and only those blocks are
//! kept: a new disk is a hole into which they are written, whatever the host's file system is.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use serde::{Deserialize, Serialize};

use super::places::Places;
use crate::process;

/// How large a disk can be, in bytes.
pub const SIZES: RangeInclusive<u64> = 32 << 20..=1 << 40;

/// A container's disk, in its folder.
const DISK: &str = "layer.img";

/// What makes the file systems; of Debian's package e2fsprogs.
const MKE2FS: &str = "mke2fs";

/// Where it is looked for beside the search path.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// All that the file system has, whatever the host's configuration of mke2fs says: what a crash needs (a
/// journal, checksums), and what is large.
const FEATURES: &str = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// From this size on the journal is this large, in MiB: below, mke2fs chooses less.
const JOURNAL: (u64, &str) = (1 << 30, "size=32");

/// Most bytes that a new file system may begin with.
const BLANK_LIMIT: u64 = 128 << 20;

/// What is copied at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Why a container has no disk.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// mke2fs is not there
    #[error(
        "cannot make a disk for what the container writes: there is no mke2fs here (install \
         e2fsprogs, or keep it in memory: --rm, or layer = \"tmpfs\" in [storage] of the configuration)"
    )]
    NoMke2fs(#[source] io::Error),
    /// mke2fs failed
    #[error("mke2fs cannot make a file system of {size} bytes ({status}): {words}")]
    Mke2fs {
        /// the size
        size: u64,
        /// how it ended
        status: String,
        /// what it said
        words: String,
    },
    /// not a size that a disk can have
    #[error("a disk of {0} bytes: it has 32m to 1t")]
    Size(u64),
    /// a kept file system that is none
    #[error("{} is damaged: remove it, it is made anew", .0.display())]
    Damaged(PathBuf),
    /// a file could not be worked with
    #[error("cannot {what} {}", path.display())]
    File {
        /// what was attempted
        what: &'static str,
        /// on what
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
}

fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> LayerError {
    move |source| LayerError::File { what, path: path.to_owned(), source }
}

/// The disks of all containers.
#[derive(Debug, Clone)]
pub struct Layers {
    places: Places,
}

/// A new file system: what is not a hole.
#[derive(Debug, Serialize, Deserialize)]
struct Blank {
    size: u64,
    /// Where, and what.
    parts: Vec<(u64, Vec<u8>)>,
}

impl Layers {
    /// Those of these places.
    pub fn new(places: &Places) -> Self {
        Self { places: places.clone() }
    }

    /// The disk of a container; made if it has none.
    pub fn of(&self, id: &str, size: u64) -> Result<PathBuf, LayerError> {
        let disk = self.disk(id)?;
        if !disk.exists() {
            let blank = self.blank(size)?;
            whole(&disk, |new| {
                new.set_len(blank.size)?;
                blank.parts.iter().try_for_each(|(at, bytes)| new.write_all_at(bytes, *at))
            })?;
        }
        Ok(disk)
    }

    /// The disk of a container that begins with what another has.
    pub fn copy(&self, from: &File, id: &str) -> Result<PathBuf, LayerError> {
        let disk = self.disk(id)?;
        whole(&disk, |new| copy_sparse(from, new))?;
        Ok(disk)
    }

    /// Where the disk of a container is, or is to be.
    fn disk(&self, id: &str) -> Result<PathBuf, LayerError> {
        let folder = self.places.container(id);
        make_folder(&folder)?;
        Ok(folder.join(DISK))
    }

    fn blank(&self, size: u64) -> Result<Blank, LayerError> {
        if !SIZES.contains(&size) {
            return Err(LayerError::Size(size));
        }
        let folder = self.places.data.join("layers");
        let path = folder.join(format!("{size}.blank"));
        match read_blank(&path, size) {
            Err(LayerError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            known => return known,
        }
        let blank = make_blank(size)?;
        make_folder(&folder)?;
        let bytes = postcard::to_stdvec(&blank).map_err(io::Error::other);
        whole(&path, |mut new| new.write_all(&bytes?))?;
        Ok(blank)
    }
}

fn make_folder(folder: &Path) -> Result<(), LayerError> {
    let mut made = fs::DirBuilder::new();
    made.recursive(true).mode(0o700).create(folder).map_err(file("create", folder))
}

/// Makes a file that is there whole, or not at all.
fn whole(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<(), LayerError> {
    let folder = path.parent().unwrap_or(path);
    let new = tempfile::NamedTempFile::new_in(folder).map_err(file("create a file in", folder))?;
    fill(new.as_file()).map_err(file("write to", path))?;
    new.persist(path).map(drop).map_err(|error| file("create", path)(error.error))
}

fn read_blank(path: &Path, size: u64) -> Result<Blank, LayerError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BLANK_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(file("read", path))?;
    let blank: Blank =
        postcard::from_bytes(&bytes).map_err(|_| LayerError::Damaged(path.to_owned()))?;
    let fits = |(at, part): &(u64, Vec<u8>)| {
        at.checked_add(part.len() as u64).is_some_and(|end| end <= size)
    };
    if blank.size != size || !blank.parts.iter().all(fits) {
        return Err(LayerError::Damaged(path.to_owned()));
    }
    Ok(blank)
}

/// mke2fs, where there is one.
pub fn mke2fs() -> Option<PathBuf> {
    process::program(MKE2FS, &SYSTEM_FOLDERS)
}

/// Has mke2fs make a file system in memory.
fn make_blank(size: u64) -> Result<Blank, LayerError> {
    const NAME: &CStr = c"layer";
    let program = mke2fs().ok_or_else(|| LayerError::NoMke2fs(io::ErrorKind::NotFound.into()))?;
    let memory = memfd_create(NAME, MFdFlags::MFD_CLOEXEC)
        .map_err(io::Error::from)
        .map(File::from)
        .and_then(|memory| memory.set_len(size).map(|()| memory))
        .map_err(file("make room in memory for", Path::new("a new file system")))?;
    let mut command = Command::new(&program);
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", FEATURES]);
    // Nothing is left for the guest's kernel to initialize: it would write into every hole.
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"]);
    let (large, journal) = JOURNAL;
    if size >= large {
        command.args(["-J", journal]);
    }
    let output = command
        .arg(format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()))
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(LayerError::NoMke2fs)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(LayerError::Mke2fs { size, status: output.status.to_string(), words });
    }
    let mut blank = Blank { size, parts: Vec::new() };
    for_each_part(&memory, |at, bytes| {
        // Blocks that mke2fs wrote zeroes to are holes as well.
        if bytes.iter().any(|byte| *byte != 0) {
            blank.parts.push((at, bytes.to_vec()));
        }
        Ok(())
    })
    .map_err(file("read", Path::new("a new file system")))?;
    Ok(blank)
}

/// What of a file is no hole, in parts of at most [`CHUNK`] bytes.
fn for_each_part(from: &File, mut act: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut at = 0;
    let mut bytes = vec![0; CHUNK];
    loop {
        let begin = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Nothing comes any more.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(begin))?;
        at = begin;
        while at < end {
            let len = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
            let part = bytes.get_mut(..len).ok_or(io::ErrorKind::InvalidInput)?;
            from.read_exact_at(part, at)?;
            act(at, part)?;
            at += len as u64;
        }
    }
}

/// Shares the host's blocks where its file system can do that.
fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    for_each_part(from, |at, bytes| to.write_all_at(bytes, at))
}

/// A file without a name for a copy of a container's disk, beside that.
pub fn unnamed(places: &Places, id: &str) -> Result<File, LayerError> {
    let folder = places.container(id);
    tempfile::tempfile_in(&folder).map_err(file("create a file in", &folder))
}

/// Copies a container's disk, which nobody writes to meanwhile.
pub fn copy_to(places: &Places, id: &str, copy: &File) -> Result<(), LayerError> {
    let path = places.container(id).join(DISK);
    let copied = File::open(&path).and_then(|disk| copy_sparse(&disk, copy));
    copied.map_err(file("copy", &path))
}

/// Has it last that a container's disk is there: its guest can only see to what is in it.
pub fn sync_folder(places: &Places, id: &str) -> Result<(), LayerError> {
    for folder in [places.container(id), places.containers()] {
        let synced = File::open(&folder).and_then(|opened| opened.sync_all());
        synced.map_err(file("sync", &folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn places(data: &Path) -> Places {
        Places { data: data.to_owned(), state: data.join("state"), templates: None }
    }

    #[test]
    fn a_new_disk_is_a_file_system_in_a_hole_and_stays_what_it_is() {
        if mke2fs().is_none() {
            println!("skipped: there is no mke2fs here");
            return;
        }
        let data = tempfile::tempdir().unwrap();
        let layers = Layers::new(&places(data.path()));
        for (id, size) in [("small", 32 << 20), ("large", 10 << 30)] {
            let disk = layers.of(id, size).unwrap();
            let metadata = fs::metadata(&disk).unwrap();
            assert_eq!(metadata.len(), size);
            assert!(metadata.blocks() * 512 < 4 << 20, "{}", metadata.blocks());
            let check = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&disk).output().unwrap();
            assert!(check.status.success(), "{check:?}");
            File::options().write(true).open(&disk).unwrap().write_all_at(b"own", 0).unwrap();
            let mut found = [0; 3];
            File::open(layers.of(id, size).unwrap()).unwrap().read_exact_at(&mut found, 0).unwrap();
            assert_eq!(&found, b"own");
            sync_folder(&layers.places, id).unwrap();
        }
        assert_eq!(fs::read_dir(data.path().join("layers")).unwrap().count(), 2);
    }

    #[test]
    fn copies_have_the_same_holes() {
        let data = tempfile::tempdir().unwrap();
        let from = tempfile::tempfile_in(data.path()).unwrap();
        from.set_len(1 << 30).unwrap();
        from.write_all_at(b"here", 3 << 20).unwrap();
        from.write_all_at(b"there", (1 << 30) - 5).unwrap();
        let to = Layers::new(&places(data.path())).copy(&from, "id").unwrap();
        let copied = File::open(to).unwrap();
        assert_eq!(copied.metadata().unwrap().len(), 1 << 30);
        assert!(copied.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mut found = [0; 5];
        copied.read_exact_at(&mut found, (1 << 30) - 5).unwrap();
        assert_eq!(&found, b"there");
    }

    #[test]
    fn what_is_damaged_is_not_written_to_a_disk() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("x.blank");
        let with = |blank: &Blank| {
            fs::write(&path, postcard::to_stdvec(blank).unwrap()).unwrap();
            read_blank(&path, 4096)
        };
        assert!(with(&Blank { size: 4096, parts: vec![(4095, vec![1])] }).is_ok());
        for (size, at) in [(4096, 4096), (4096, u64::MAX), (8192, 0)] {
            let damaged = with(&Blank { size, parts: vec![(at, vec![1])] });
            assert!(matches!(damaged, Err(LayerError::Damaged(_))), "{size} {at}");
        }
        fs::write(&path, b"x").unwrap();
        assert!(matches!(read_blank(&path, 4096), Err(LayerError::Damaged(_))));
        assert!(matches!(
            Layers::new(&places(data.path())).blank(1 << 20),
            Err(LayerError::Size(_))
        ));
    }
}
