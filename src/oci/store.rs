//! The containers of a `--root`.
//!
//! ```text
//! <root>/<id>/             locked (flock) by the command that changes it
//! <root>/<id>/state.json   the record; there once the container is created, replaced as a whole
//! <root>/<id>/config.json  the bundle's, as it was
//! <root>/<id>/limits.json  linux.resources as `update` left them; there once it was used
//! <root>/<id>/failure      why the container ended, where its program did not
//! <root>/<id>/keeper       locked by the container's keeper as long as it lives
//! <root>/<id>/cgroup       path of the host's control group that is made for it
//! ```
//!
//! A container whose keeper's lock is free has stopped, however that came.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::{LinuxResources, Spec};

use super::bundle;
use super::error::{OciError, file};
use super::record::{Record, Status};
use crate::process::Process;

/// Largest `state.json` that is read, in bytes: the annotations of the largest `config.json` fit.
const RECORD_LIMIT: u64 = 4 << 20;

/// Most of a failure's reason that is told, in bytes.
const FAILURE_LIMIT: u64 = 16 << 10;

/// Longest id, in bytes: it is a file's name.
const ID_LIMIT: usize = 255;

/// The containers of one root.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A container's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    id: String,
    path: PathBuf,
}

/// A container's folder that nobody else changes meanwhile.
#[derive(Debug)]
pub struct Held {
    /// The folder.
    pub folder: Folder,
    _lock: Flock<File>,
}

impl Store {
    /// The containers below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()) }
    }

    /// The folder that they are below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of an id, whether it is there or not.
    pub fn folder(&self, id: &str) -> Result<Folder, OciError> {
        if !is_valid_id(id) {
            return Err(OciError::InvalidId(id.to_owned()));
        }
        Ok(Folder { id: id.to_owned(), path: self.root.join(id) })
    }

    /// Makes the folder of a new container.
    pub fn create(&self, id: &str) -> Result<Held, OciError> {
        let folder = self.folder(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(&self.root).map_err(file("create", &self.root))?;
        match builder.recursive(false).create(&folder.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OciError::Exists(id.to_owned()));
            }
            made => made.map_err(file("create", &folder.path))?,
        }
        folder.hold()
    }

    /// The container of an id, as it is now.
    pub fn find(&self, id: &str) -> Result<Record, OciError> {
        self.folder(id)?.read()
    }

    /// The container of an id, for as long as the first is held.
    pub fn hold(&self, id: &str) -> Result<(Held, Record), OciError> {
        let held = self.folder(id)?.hold()?;
        let record = held.folder.read()?;
        Ok((held, record))
    }

    /// Holds what there is of a container, be it only its folder.
    pub fn hold_any(&self, id: &str) -> Result<Held, OciError> {
        self.folder(id)?.hold()
    }

    /// Every container, by id.
    pub fn list(&self) -> Result<Vec<Record>, OciError> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(file("read", &self.root))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        // One that cannot be read is being made, or has just gone.
        let mut all: Vec<_> = names.filter_map(|id| self.find(&id).ok()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }
}

impl Folder {
    /// The file that the keeper locks.
    pub fn keeper(&self) -> PathBuf {
        self.path.join("keeper")
    }

    /// The copy of the bundle's `config.json`.
    fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    fn cgroup(&self) -> PathBuf {
        self.path.join("cgroup")
    }

    /// Writes down which control group is about to be made for the container.
    pub fn write_cgroup(&self, group: &Path) -> Result<(), OciError> {
        let path = self.cgroup();
        replace(&path, group.as_os_str().as_bytes()).map_err(file("write", &path))
    }

    /// The control group that may have been made for the container.
    pub fn read_cgroup(&self) -> Option<PathBuf> {
        fs::read(self.cgroup()).ok().map(|bytes| OsString::from_vec(bytes).into())
    }

    fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    fn limits(&self) -> PathBuf {
        self.path.join("limits.json")
    }

    /// Whether the container's keeper lives.
    pub fn is_kept(&self) -> bool {
        match File::open(self.keeper()) {
            Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Keeps why the container has ended. What cannot be kept is missing, no more.
    pub fn write_failure(&self, reason: &str) {
        let _ = replace(&self.failure(), reason.as_bytes());
    }

    fn read_failure(&self) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.failure()).ok()?.take(FAILURE_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn failure(&self) -> PathBuf {
        self.path.join("failure")
    }

    /// The keeper that holds its lock, by what it wrote there.
    pub fn keeper_process(&self) -> Option<Process> {
        let pid = fs::read_to_string(self.keeper()).ok()?.parse().ok()?;
        // The handle is on the keeper if that still lives when the handle is there.
        Process::of(pid).ok().filter(|_| self.is_kept())
    }

    fn hold(self) -> Result<Held, OciError> {
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => OciError::NotFound(self.id.clone()),
            _ => file("open", &self.path)(error),
        };
        loop {
            let directory = File::open(&self.path).map_err(gone)?;
            let lock = Flock::lock(directory, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file("lock", &self.path)(errno))?;
            let (ours, now) = (lock.metadata(), fs::metadata(&self.path).map_err(gone)?);
            let ours = ours.map_err(file("look at", &self.path))?;
            // Another one of this id may have taken the place of the one that was waited for.
            if (ours.dev(), ours.ino()) == (now.dev(), now.ino()) {
                return Ok(Held { folder: self, _lock: lock });
            }
        }
    }

    fn read(&self) -> Result<Record, OciError> {
        let path = self.state();
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut bytes));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::NotFound(self.id.clone()));
            }
            read => read.map_err(file("read", &path))?,
        };
        let mut record: Record = serde_json::from_slice(&bytes)
            .map_err(|source| OciError::Record { id: self.id.clone(), source })?;
        if record.status != Status::Stopped && !self.is_kept() {
            record.status = Status::Stopped;
            record.failure = self.read_failure();
        }
        Ok(record)
    }

    /// The limits as they were last changed; none where they were not.
    pub fn read_limits(&self) -> Result<Option<LinuxResources>, OciError> {
        let path = self.limits();
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(file("read", &path))?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(file("read", &path))
    }

    /// The `config.json` that the container was created with.
    pub fn read_config(&self) -> Result<Spec, OciError> {
        Ok(bundle::read(&self.config())?)
    }
}

impl Held {
    /// Lets go of the copy of the lock that a forked process has, not of the lock.
    ///
    /// # Safety
    /// In a process that has forked off and will neither use nor drop this.
    pub unsafe fn let_go_of_copy(&self) {
        // SAFETY: the descriptor is this process's own copy, which the caller gives up.
        unsafe { libc::close(self._lock.as_raw_fd()) };
    }

    /// Writes the record down, as a whole.
    pub fn write(&self, record: &Record) -> Result<(), OciError> {
        let path = self.folder.state();
        let json = serde_json::to_vec(record).map_err(io::Error::other);
        json.and_then(|json| replace(&path, &json)).map_err(file("write", &path))
    }

    /// Keeps the limits as they were changed.
    pub fn write_limits(&self, limits: &LinuxResources) -> Result<(), OciError> {
        let path = self.folder.limits();
        let json = serde_json::to_vec(limits).map_err(io::Error::other);
        json.and_then(|json| replace(&path, &json)).map_err(file("write", &path))
    }

    /// The lock that the container's keeper is to have; while it is held, somebody works on that.
    pub fn lock_keeper(&self) -> Result<File, OciError> {
        let path = self.folder.keeper();
        let lock = File::create(&path).map_err(file("create", &path))?;
        lock.lock().map_err(file("lock", &path))?;
        Ok(lock)
    }

    /// Keeps the bundle's `config.json`, which may change.
    pub fn write_config(&self, config: &[u8]) -> Result<(), OciError> {
        let path = self.folder.config();
        replace(&path, config).map_err(file("write", &path))
    }

    /// Removes all that is kept of the container.
    pub fn remove(self) -> Result<(), OciError> {
        let path = &self.folder.path;
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(file("remove", path)),
        }
    }
}

/// Writes a file that is there whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(bytes)?;
    new.persist(path)?;
    Ok(())
}

fn is_valid_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    (1..=ID_LIMIT).contains(&id.len()) && id.chars().all(allowed) && !matches!(id, "." | "..")
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A record of a container without a keeper.
    pub fn record(id: &str) -> Record {
        Record {
            oci_version: "1.2.0".into(),
            id: id.into(),
            status: Status::Running,
            pid: 42,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            annotations: Default::default(),
            vsock: "/v".into(),
            places: crate::sandbox::Places::new(None, None, None),
            cgroups: Vec::new(),
            failure: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::record;
    use super::*;

    #[test]
    fn ids_are_single_harmless_path_components() {
        for good in ["a", "A.b_c+d-e", "..."] {
            assert!(is_valid_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(!is_valid_id(bad), "{bad}");
        }
    }

    #[test]
    fn an_id_is_used_once_and_is_free_again_when_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("root"));
        assert!(matches!(store.find("c"), Err(OciError::NotFound(_))));
        let held = store.create("c").unwrap();
        assert!(matches!(store.create("c"), Err(OciError::Exists(_))));
        // Not a container before it has a record.
        assert!(matches!(store.find("c"), Err(OciError::NotFound(_))));
        held.write(&record("c")).unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        held.remove().unwrap();
        store.create("c").unwrap();
    }

    #[test]
    fn a_container_without_a_keeper_has_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let held = store.create("c").unwrap();
        held.write(&record("c")).unwrap();
        let keeper = File::create(held.folder.keeper()).unwrap();
        let keeper = Flock::lock(keeper, FlockArg::LockExclusive).unwrap();
        assert_eq!(store.find("c").unwrap().status, Status::Running);
        assert_eq!(store.find("c").unwrap().told_pid(), 42);
        drop(keeper);
        assert_eq!(store.find("c").unwrap().status, Status::Stopped);
        assert_eq!(store.find("c").unwrap().told_pid(), 0);
    }

    #[test]
    fn a_record_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let held = store.create("c").unwrap();
        std::fs::write(held.folder.state(), "{").unwrap();
        assert!(matches!(store.find("c"), Err(OciError::Record { .. })));
    }
}
