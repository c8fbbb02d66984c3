//! The folder of all volumes: made, found, held and removed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{VolumeError, file};
use super::{Record, Volume, is_valid_name};

const DATA: &str = "_data";
const RECORD: &str = "volume.json";

/// How the folders of volumes that are being made begin: no volume's name does.
const NEW: &str = ".new-";

/// Largest record that is read, in bytes.
const RECORD_LIMIT: u64 = 1 << 20;

/// All volumes of one data folder.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    folder: PathBuf,
}

/// A volume that cannot be removed while this is held.
#[derive(Debug)]
pub struct Held {
    /// The volume.
    pub volume: Volume,
    _lock: Flock<File>,
}

impl Held {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.volume.mountpoint).is_ok_and(|mut entries| entries.next().is_none())
    }
}

impl VolumeStore {
    /// The volumes below a data folder.
    pub fn new(data: &Path) -> Self {
        Self { folder: data.join("volumes") }
    }

    /// The volume of this name, held; made as `record` says if there is none.
    pub fn take(&self, name: &str, record: impl Fn() -> Record) -> Result<Held, VolumeError> {
        loop {
            self.create(name, record())?;
            match self.hold(name, FlockArg::LockShared) {
                // Somebody removed it meanwhile.
                Err(VolumeError::NotFound(_)) => {}
                held => return held,
            }
        }
    }

    /// Makes a volume; one that is there already stays as it is. Whether it was made.
    pub fn create(&self, name: &str, record: Record) -> Result<bool, VolumeError> {
        let path = self.path(name)?;
        if path.exists() {
            return Ok(false);
        }
        let mut folders = fs::DirBuilder::new();
        folders
            .recursive(true)
            .mode(0o711)
            .create(&self.folder)
            .map_err(file("create", &self.folder))?;
        let new = tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(&self.folder)
            .map_err(file("create a folder in", &self.folder))?;
        fill(new.path(), &record).map_err(file("write to", new.path()))?;
        // Whoever is first has made it: a folder that is not empty is not replaced.
        match nix::fcntl::renameat2(
            nix::fcntl::AT_FDCWD,
            new.path(),
            nix::fcntl::AT_FDCWD,
            &path,
            nix::fcntl::RenameFlags::RENAME_NOREPLACE,
        ) {
            Ok(()) => {
                // It is not there any more by its old name.
                let _ = new.keep();
                Ok(true)
            }
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(false),
            // A file system that cannot do that replaces no folder that is not empty either.
            Err(Errno::EINVAL) => match fs::rename(new.path(), &path) {
                Ok(()) => {
                    let _ = new.keep();
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
                Err(error) => Err(file("create", &path)(error)),
            },
            Err(errno) => Err(file("create", &path)(errno.into())),
        }
    }

    /// The volume of this name.
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        let path = self.path(name)?;
        let record = read_record(&path.join(RECORD)).map_err(|error| match error {
            VolumeError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                VolumeError::NotFound(name.to_owned())
            }
            error => error,
        })?;
        Ok(Volume { name: name.to_owned(), mountpoint: path.join(DATA), record })
    }

    /// All volumes, by name. Folders that are none are passed over.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let read = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("read", &self.folder))?,
        };
        let names = read.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<Volume> = names
            .filter(|name| is_valid_name(name))
            .filter_map(|name| self.get(&name).ok())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a volume with all that is in it, unless one of `users` (ids of containers) has it, or
    /// it is held.
    pub fn remove(&self, name: &str, users: &[String]) -> Result<(), VolumeError> {
        self.get(name)?;
        if !users.is_empty() {
            return Err(VolumeError::InUse { name: name.to_owned(), users: users.to_vec() });
        }
        let held = self.hold(name, FlockArg::LockExclusiveNonblock)?;
        let path = self.path(name)?;
        // Under another name first: what is half removed is nobody's volume.
        let gone = tempfile::Builder::new()
            .prefix(NEW)
            .tempdir_in(&self.folder)
            .map_err(file("create a folder in", &self.folder))?;
        fs::rename(&path, gone.path().join(name)).map_err(file("remove", &path))?;
        drop(held);
        let left = gone.path().to_owned();
        gone.close().map_err(file("remove", &left))
    }

    fn hold(&self, name: &str, how: FlockArg) -> Result<Held, VolumeError> {
        let path = self.path(name)?;
        let folder = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VolumeError::NotFound(name.to_owned()));
            }
            other => other.map_err(file("open", &path))?,
        };
        let lock = Flock::lock(folder, how).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => VolumeError::Held(name.to_owned()),
            errno => file("lock", &path)(errno.into()),
        })?;
        let ours = lock.metadata().map_err(file("look at", &path))?;
        // Whoever removed it had the lock before.
        if !fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()))
        {
            return Err(VolumeError::NotFound(name.to_owned()));
        }
        Ok(Held { volume: self.get(name)?, _lock: lock })
    }

    fn path(&self, name: &str) -> Result<PathBuf, VolumeError> {
        if !is_valid_name(name) {
            return Err(VolumeError::InvalidName(name.to_owned()));
        }
        Ok(self.folder.join(name))
    }
}

fn fill(folder: &Path, record: &Record) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))?;
    let data = folder.join(DATA);
    fs::create_dir(&data)?;
    // Whatever this process's umask is: until an image's directory is copied into it, with its mode.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
    let written = File::create(folder.join(RECORD))?;
    serde_json::to_writer(&written, record)?;
    written.sync_all()
}

fn read_record(path: &Path) -> Result<Record, VolumeError> {
    let mut json = Vec::new();
    File::open(path)
        .and_then(|record| record.take(RECORD_LIMIT + 1).read_to_end(&mut json))
        .map_err(file("read", path))?;
    if json.len() as u64 > RECORD_LIMIT {
        return Err(VolumeError::TooLarge { path: path.to_owned(), limit: RECORD_LIMIT });
    }
    serde_json::from_slice(&json)
        .map_err(|source| VolumeError::Damaged { path: path.to_owned(), source })
}

impl Record {
    /// Of a volume that is made now.
    pub fn now() -> Self {
        Self { created: Timestamp::now(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn of_two_who_make_a_volume_one_has_made_it() {
        let data = tempfile::tempdir().unwrap();
        let store = VolumeStore::new(data.path());
        let made: usize = thread::scope(|scope| {
            let tasks: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| store.create("data", Record::now()).unwrap()))
                .collect();
            tasks.into_iter().map(|task| usize::from(task.join().unwrap())).sum()
        });
        assert_eq!(made, 1);
        assert_eq!(fs::read_dir(data.path().join("volumes")).unwrap().count(), 1);
        assert!(store.get("data").unwrap().mountpoint.is_dir());
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_volume_that_is_in_use_stays() {
        let data = tempfile::tempdir().unwrap();
        let store = VolumeStore::new(data.path());
        let held = store.take("data", Record::now).unwrap();
        assert!(held.is_empty());
        fs::write(held.volume.mountpoint.join("file"), "x").unwrap();
        assert!(!held.is_empty());
        // Others may have it too.
        drop(store.take("data", Record::now).unwrap());
        assert!(matches!(store.remove("data", &[]), Err(VolumeError::Held(_))));
        drop(held);
        let users = ["0123".to_owned()];
        let refused = store.remove("data", &users).unwrap_err().to_string();
        assert!(refused.contains("0123"), "{refused}");
        store.remove("data", &[]).unwrap();
        assert!(matches!(store.remove("data", &[]), Err(VolumeError::NotFound(_))));
        assert_eq!(fs::read_dir(data.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn names_are_single_harmless_path_components() {
        let store = VolumeStore::new(Path::new("/nowhere"));
        for bad in ["", "x", ".", "..", "a/b", ".new-x", "-x", "a b", &"x".repeat(129)] {
            assert!(matches!(store.get(bad), Err(VolumeError::InvalidName(_))), "{bad}");
        }
        assert!(matches!(store.get("data"), Err(VolumeError::NotFound(_))));
    }

    #[test]
    fn a_damaged_record_is_told_and_no_others_way() {
        let data = tempfile::tempdir().unwrap();
        let store = VolumeStore::new(data.path());
        store.create("good", Record::now()).unwrap();
        store.create("bad", Record::now()).unwrap();
        fs::write(data.path().join("volumes/bad").join(RECORD), "{").unwrap();
        assert!(matches!(store.get("bad"), Err(VolumeError::Damaged { .. })));
        assert_eq!(store.list().unwrap().len(), 1);
    }
}
