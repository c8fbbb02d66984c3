//! A tree of files, looked at one after another: a directory before what is in it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::dir::{Dir, OwningIter};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::fstatfs;

/// Directories within directories that are followed: each has two descriptors open.
pub const MAX_DEPTH: usize = 128;

/// File systems whose files are no files but the kernel's answers: what is mounted of them below a tree is no
/// part of it. Those of `linux/magic.h` that libc has no name for are spelled out.
const ANSWERS: [i64; 12] = [
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::DEVPTS_SUPER_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::SECURITYFS_MAGIC,
    libc::BPF_FS_MAGIC,
    libc::NSFS_MAGIC,
    0x1980_0202, // mqueue
    0x6265_6570, // configfs
];

/// A file that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its name, below what the walk began with.
    pub path: &'a [u8],
    /// The file itself, opened as `O_PATH`.
    pub file: &'a OwnedFd,
    /// What it is.
    pub stat: FileStat,
    /// The same, opened to be read, where it is a directory.
    pub directory: Option<&'a OwnedFd>,
}

impl Found<'_> {
    /// What kind of file it is: one of `S_IFMT`.
    pub fn kind(&self) -> SFlag {
        kind(&self.stat)
    }

    /// Opens it to be read.
    pub fn open(&self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path_of(self.file).as_path(), flags, Mode::empty())
    }
}

/// The path that names an open file.
pub fn path_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What kind of file this is: one of `S_IFMT`.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Why a walk has ended.
#[derive(Debug, thiserror::Error)]
pub enum WalkError<E: std::error::Error + 'static> {
    /// a file cannot be looked at
    #[error("cannot read {path:?}")]
    File {
        /// its name
        path: String,
        /// why
        #[source]
        source: Errno,
    },
    /// too many directories in each other
    #[error("{0:?} is in more than {MAX_DEPTH} directories")]
    Deep(String),
    /// what was done with a file failed
    #[error(transparent)]
    Visit(E),
}

struct Level {
    directory: OwnedFd,
    entries: OwningIter,
    path: Vec<u8>,
    device: u64,
}

/// Looks at the file `top` (`O_PATH`), which is called `path`, and at all that is below it. What vanishes
/// meanwhile was not there.
pub fn walk<E: std::error::Error + 'static>(
    top: OwnedFd,
    path: Vec<u8>,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let mut levels: Vec<Level> = Vec::new();
    levels.extend(look(&top, path, None, visit)?);
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            levels.pop();
            continue;
        };
        let failed = |path: &[u8], source| WalkError::File { path: lossy(path), source };
        let entry = entry.map_err(|errno| failed(&level.path, errno))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let path = join(&level.path, name);
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = std::ffi::OsStr::from_bytes(name);
        let file = match openat(&level.directory, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => continue,
            file => file.map_err(|errno| failed(&path, errno))?,
        };
        let device = level.device;
        if let Some(next) = look(&file, path, Some(device), visit)? {
            if levels.len() >= MAX_DEPTH {
                return Err(WalkError::Deep(lossy(&next.path)));
            }
            levels.push(next);
        }
    }
    Ok(())
}

/// Has a file visited; what is in it, where that is to be looked at. `device` is that of the directory which it
/// was found in.
fn look<E: std::error::Error + 'static>(
    file: &OwnedFd,
    path: Vec<u8>,
    device: Option<u64>,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<(), E>,
) -> Result<Option<Level>, WalkError<E>> {
    let failed = |source| WalkError::File { path: lossy(&path), source };
    let stat = fstat(file).map_err(failed)?;
    if kind(&stat) != SFlag::S_IFDIR {
        let found = Found { path: &path, file, stat, directory: None };
        return visit(&found).map(|()| None).map_err(WalkError::Visit);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = openat(file, ".", flags, Mode::empty()).map_err(failed)?;
    let found = Found { path: &path, file, stat, directory: Some(&directory) };
    visit(&found).map_err(WalkError::Visit)?;
    if device.is_some_and(|device| device != stat.st_dev) && answers(&directory).map_err(failed)? {
        return Ok(None);
    }
    let entries = Dir::openat(&directory, ".", flags, Mode::empty()).map_err(failed)?.into_iter();
    Ok(Some(Level { directory, entries, path, device: stat.st_dev }))
}

fn answers(directory: &impl AsFd) -> nix::Result<bool> {
    Ok(ANSWERS.contains(&fstatfs(directory)?.filesystem_type().0))
}

/// The name of what is in a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"." => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// For messages.
pub fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::fs;

    fn opened(path: &std::path::Path) -> OwnedFd {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()).unwrap()
    }

    fn paths(top: &std::path::Path) -> Result<Vec<String>, WalkError<Infallible>> {
        let mut paths = Vec::new();
        walk(opened(top), b".".to_vec(), &mut |found| {
            paths.push(lossy(found.path));
            Ok(())
        })?;
        paths.sort();
        Ok(paths)
    }

    #[test]
    fn links_are_seen_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        fs::write(directory.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("a/root")).unwrap();
        assert_eq!(paths(directory.path()).unwrap(), [".", "a", "a/b", "a/b/file", "a/root"]);
        assert_eq!(paths(&directory.path().join("a/root")).unwrap(), ["."]);
    }

    #[test]
    fn a_walk_goes_only_so_deep() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/".repeat(MAX_DEPTH - 1))).unwrap();
        assert_eq!(paths(directory.path()).unwrap().len(), MAX_DEPTH);
        fs::create_dir_all(directory.path().join("d/".repeat(MAX_DEPTH))).unwrap();
        assert!(matches!(paths(directory.path()), Err(WalkError::Deep(_))));
    }

    #[test]
    fn what_the_kernel_answers_is_no_part_of_a_tree() {
        assert!(answers(&fs::File::open("/proc").unwrap()).unwrap());
        assert!(!answers(&fs::File::open("/").unwrap()).unwrap());
    }
}
