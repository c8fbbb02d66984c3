//! The sandboxes of this host: making, finding and clearing away their folders.
//!
//! ```text
//! <state>/sandboxes/<12 digits of the id>/   lock · state.json or about.json · control.sock · network.sock · vsock.sock · …
//! <state>/names/<name> -> <12 digits>        made with one symlink(2): a name has one owner
//! <data>/logs/<id>.json                      output of a detached container
//! ```
//!
//! A sandbox's keeper holds `lock` as long as it lives: a folder whose lock is free and whose state
//! is not `exited` was left by a keeper that was killed, and is cleared away by [`Registry::sweep`].
//! Folders are made under a shared lock of the `sandboxes` folder, and removed and swept under an
//! exclusive one, so that no half-made folder is taken for a left one and no name changes hands
//! unseen.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};

use super::places::Places;
use super::state::{State, StateError, Status};
use crate::monitor::group;

/// Length of `sun_path` without its end: a Unix socket's path must fit.
const SOCKET_PATH_LIMIT: usize = 107;

/// Why the registry could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// another sandbox has that name
    #[error(
        "the name {name:?} is in use by container {id}: remove it (ampoule rm {name}) or choose \
         another"
    )]
    NameInUse {
        /// the name
        name: String,
        /// its owner
        id: String,
    },
    /// a name that cannot be one
    #[error(
        "{0:?} is not a valid container name: 1 to 128 of [a-zA-Z0-9_.-], the first of [a-zA-Z0-9]"
    )]
    InvalidName(String),
    /// no sandbox of that name or id
    #[error("no such container: {0}")]
    NotFound(String),
    /// an id prefix that several sandboxes share
    #[error("{0:?} is the beginning of several containers' ids: give more of it")]
    Ambiguous(String),
    /// the state folder is too deep for a socket
    #[error(
        "{} is too long a path for a Unix socket (at most {SOCKET_PATH_LIMIT} bytes): choose a \
         shorter --state folder", .0.display()
    )]
    PathTooLong(PathBuf),
    /// somebody else's state folder
    #[error(
        "the state folder {} belongs to another user or can be written by others: remove it, or \
         choose another with --state", .0.display()
    )]
    NotOurs(PathBuf),
    /// a file or folder could not be worked with
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
    /// the kernel gave no random bytes for an id
    #[error("cannot make an id")]
    Random(#[source] getrandom::Error),
    /// a state file
    #[error(transparent)]
    State(#[from] StateError),
}

fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> RegistryError {
    move |source| RegistryError::File { what, path: path.to_owned(), source }
}

/// A sandbox's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub(super) path: PathBuf,
}

impl Folder {
    /// The Unix socket behind which the guest's vsock ports are.
    pub fn vsock(&self) -> PathBuf {
        self.path.join("vsock.sock")
    }

    /// The socket on which the monitor takes requests.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// What is told of a sandbox that has no state file.
    pub fn about(&self) -> PathBuf {
        self.path.join("about.json")
    }

    /// The socket at which its metrics are read, where its keeper offers one.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.sock")
    }

    /// Its name, the beginning of the sandbox's id.
    pub fn short_id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The state file.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Removes the sockets of an ended sandbox; a folder without them is the same.
    pub fn remove_sockets(&self) {
        let vsock = self.vsock();
        let ready = crate::agent::ReadyListener::path(&vsock);
        for socket in [ready, vsock, self.control(), self.metrics()] {
            let _ = fs::remove_file(socket);
        }
    }

    /// The file that its keeper holds locked.
    fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Whether a keeper holds the folder.
    pub fn is_kept(&self) -> bool {
        match File::open(self.lock()) {
            // Whatever cannot be told from a keeper counts as one: what it keeps is not cleared.
            Ok(lock) => Flock::lock(lock, FlockArg::LockSharedNonblock).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

/// A sandbox as another command finds it.
#[derive(Debug)]
pub struct Entry {
    /// Its folder.
    pub folder: Folder,
    /// Its state, `exited` where its keeper was killed.
    pub state: State,
}

/// A folder that this process keeps.
#[derive(Debug)]
pub struct Kept {
    /// The folder.
    pub folder: Folder,
    /// Id of the sandbox.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Held until the keeper ends, however it ends.
    _lock: Flock<File>,
}

/// All sandboxes of one state folder.
#[derive(Debug, Clone)]
pub struct Registry {
    places: Places,
}

impl Registry {
    /// The sandboxes under `places`.
    pub fn new(places: &Places) -> Self {
        Self { places: places.clone() }
    }

    /// Makes a folder for a new sandbox, locked by this process; a random name where none is given.
    pub fn create(&self, name: Option<&str>) -> Result<Kept, RegistryError> {
        self.make(|short| self.claim(name, short))
    }

    /// The same for one that is known by no name.
    pub fn create_unnamed(&self) -> Result<Kept, RegistryError> {
        self.make(|_| Ok((self.lock_all(FlockArg::LockShared)?, String::new())))
    }

    fn make(
        &self,
        claim: impl FnOnce(&str) -> Result<(Flock<File>, String), RegistryError>,
    ) -> Result<Kept, RegistryError> {
        let all = self.places.sandboxes();
        for path in [&all, &self.places.names()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(file("create", path))?;
        }
        self.own()?;
        let id = new_id().map_err(RegistryError::Random)?;
        let short = &id[..12];
        let folder = Folder { path: all.join(short) };
        let longest = crate::agent::ReadyListener::path(&folder.vsock());
        if longest.as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(RegistryError::PathTooLong(longest));
        }
        let (_making, name) = claim(short)?;
        let kept = fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder.path)
            .and_then(|()| File::create(folder.lock()))
            .and_then(|lock| {
                Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
            });
        match kept {
            Ok(lock) => Ok(Kept { folder, id, name, _lock: lock }),
            Err(source) => {
                let failed = file("create", &folder.path)(source);
                self.forget(&folder, &name, &id)?;
                Err(failed)
            }
        }
    }

    /// Clears away a sandbox that this process keeps.
    pub fn remove(&self, kept: Kept) -> Result<(), RegistryError> {
        let _removing = self.lock_all(FlockArg::LockExclusive)?;
        self.forget(&kept.folder, &kept.name, &kept.id)
    }

    /// Clears away the record of an ended sandbox.
    pub fn remove_entry(&self, entry: &Entry) -> Result<(), RegistryError> {
        let _removing = self.lock_all(FlockArg::LockExclusive)?;
        self.forget(&entry.folder, &entry.state.name, &entry.state.id)
    }

    /// Every sandbox, oldest first. A folder without a readable state is being made, or left for
    /// [`Registry::sweep`].
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let mut entries: Vec<Entry> =
            self.folders()?.into_iter().filter_map(|folder| self.entry(folder).ok()).collect();
        entries.sort_by_key(|entry| entry.state.created);
        Ok(entries)
    }

    /// The folders of all sandboxes that a keeper lives for, those without a name among them.
    pub fn kept(&self) -> Result<Vec<Folder>, RegistryError> {
        let mut folders = self.folders()?;
        folders.retain(Folder::is_kept);
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(folders)
    }

    /// The sandbox of a name, an id or an id's unambiguous beginning.
    pub fn find(&self, wanted: &str) -> Result<Entry, RegistryError> {
        if is_valid_name(wanted)
            && let Some(short) = self.owner_of(wanted)
            && let Ok(entry) = self.entry(Folder { path: self.places.sandboxes().join(short) })
        {
            return Ok(entry);
        }
        let mut found = None;
        if !wanted.is_empty() && wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            for entry in self.list()?.into_iter().filter(|e| e.state.id.starts_with(wanted)) {
                if found.replace(entry).is_some() {
                    return Err(RegistryError::Ambiguous(wanted.to_owned()));
                }
            }
        }
        found.ok_or_else(|| RegistryError::NotFound(wanted.to_owned()))
    }

    /// Clears away what killed keepers have left: folders, names, logs.
    pub fn sweep(&self) -> Result<(), RegistryError> {
        let Ok(_clearing) = self.lock_all(FlockArg::LockExclusive) else {
            return Ok(());
        };
        group::sweep();
        for folder in self.folders()? {
            if folder.is_kept() {
                continue;
            }
            match State::read(&folder.state()) {
                Ok(state) if state.remove => self.forget(&folder, &state.name, &state.id)?,
                Ok(state) if state.status == Status::Exited => {}
                Ok(state) => {
                    killed(state).write(&folder.state())?;
                    folder.remove_sockets();
                }
                Err(error) if error.is_worthless() => remove_tree(&folder.path)?,
                // Another version's, or one that could not be read now.
                Err(_) => {}
            }
        }
        self.sweep_names()
    }

    /// Refuses a state folder that others could have prepared or can write to: what is read there
    /// is acted on.
    fn own(&self) -> Result<(), RegistryError> {
        let all = self.places.sandboxes();
        let metadata = match fs::metadata(&all) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(file("look at", &all))?,
        };
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(RegistryError::NotOurs(all));
        }
        Ok(())
    }

    fn entry(&self, folder: Folder) -> Result<Entry, StateError> {
        let kept = folder.is_kept();
        let state = State::read(&folder.state())?;
        let state = if kept || state.status == Status::Exited { state } else { killed(state) };
        Ok(Entry { folder, state })
    }

    /// The state of a sandbox that has a name.
    pub fn state_of(&self, folder: &Folder) -> Option<State> {
        self.entry(folder.clone()).ok().map(|entry| entry.state)
    }

    fn folders(&self) -> Result<Vec<Folder>, RegistryError> {
        self.own()?;
        let all = self.places.sandboxes();
        let read = match fs::read_dir(&all) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("read", &all))?,
        };
        Ok(read.flatten().map(|entry| Folder { path: entry.path() }).collect())
    }

    fn lock_all(&self, how: FlockArg) -> Result<Flock<File>, RegistryError> {
        let all = self.places.sandboxes();
        let folder = File::open(&all).map_err(file("open", &all))?;
        Flock::lock(folder, how).map_err(|(_, errno)| file("lock", &all)(errno.into()))
    }

    /// Makes `name`, or a random one, this sandbox's; a name whose owner was killed or is gone is
    /// taken over. The lock keeps sweepers out until the folder is made too.
    fn claim(
        &self,
        name: Option<&str>,
        short: &str,
    ) -> Result<(Flock<File>, String), RegistryError> {
        let making = self.lock_all(FlockArg::LockShared)?;
        let Some(name) = name else {
            let random = std::iter::repeat_with(|| petname::petname(2, "_")).take(8).flatten();
            for name in random.chain([short.to_owned()]) {
                if self.link(&name, short)? {
                    return Ok((making, name));
                }
            }
            let id = self.owner_of(short).unwrap_or_default();
            return Err(RegistryError::NameInUse { name: short.to_owned(), id });
        };
        if !is_valid_name(name) {
            return Err(RegistryError::InvalidName(name.to_owned()));
        }
        if self.link(name, short)? {
            return Ok((making, name.to_owned()));
        }
        drop(making);
        self.sweep()?;
        let making = self.lock_all(FlockArg::LockShared)?;
        if self.link(name, short)? {
            return Ok((making, name.to_owned()));
        }
        let id = self.owner_of(name).unwrap_or_default();
        Err(RegistryError::NameInUse { name: name.to_owned(), id })
    }

    /// Whether `name` was free and is now this sandbox's.
    fn link(&self, name: &str, short: &str) -> Result<bool, RegistryError> {
        let link = self.places.names().join(name);
        match symlink(short, &link) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(file("create", &link)(e)),
        }
    }

    fn owner_of(&self, name: &str) -> Option<String> {
        let short = fs::read_link(self.places.names().join(name)).ok()?;
        let short = short.to_str()?;
        is_short_id(short).then(|| short.to_owned())
    }

    /// Names whose sandbox is gone.
    fn sweep_names(&self) -> Result<(), RegistryError> {
        let names = self.places.names();
        let Ok(read) = fs::read_dir(&names) else {
            return Ok(());
        };
        for link in read.flatten() {
            let owner = link.file_name().to_str().and_then(|name| self.owner_of(name));
            let gone = owner.is_none_or(|short| !self.places.sandboxes().join(short).exists());
            if gone {
                remove_file(&link.path()).map_err(file("remove", &link.path()))?;
            }
        }
        Ok(())
    }

    /// The log first, the name last: whatever is left by a kill in between is found again.
    fn forget(&self, folder: &Folder, name: &str, id: &str) -> Result<(), RegistryError> {
        let log = self.places.log(id);
        remove_file(&log).map_err(file("remove", &log))?;
        remove_tree(&folder.path)?;
        if self.owner_of(name).is_some_and(|short| id.starts_with(&short)) {
            let link = self.places.names().join(name);
            remove_file(&link).map_err(file("remove", &link))?;
        }
        Ok(())
    }
}

fn killed(mut state: State) -> State {
    state.status = Status::Exited;
    state.exit_code = Some(137);
    state.finished = Some(Timestamp::now());
    state.error = Some("its keeper was killed".into());
    state
}

fn new_id() -> Result<String, getrandom::Error> {
    use std::fmt::Write;
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    let mut id = String::with_capacity(64);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

fn is_short_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// docker's rule, with an end: the name becomes a file's name and the default host name's source.
pub fn is_valid_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_tree(path: &Path) -> Result<(), RegistryError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(file("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let places =
            Places { data: dir.path().join("d"), state: dir.path().join("s"), templates: None };
        (dir, Registry::new(&places))
    }

    fn write_state(kept: &Kept, status: Status, remove: bool) {
        let mut state = State::new(kept.id.clone(), kept.name.clone(), "i".into(), vec![]);
        state.status = status;
        state.remove = remove;
        state.write(&kept.folder.state()).unwrap();
    }

    fn left_behind(registry: &Registry) -> usize {
        let places = &registry.places;
        [places.sandboxes(), places.names()]
            .iter()
            .map(|folder| fs::read_dir(folder).unwrap().count())
            .sum()
    }

    #[test]
    fn a_name_has_one_owner() {
        let (_dir, registry) = registry();
        let first = registry.create(Some("web")).unwrap();
        write_state(&first, Status::Running, true);
        let second = registry.create(Some("web")).unwrap_err();
        assert!(matches!(second, RegistryError::NameInUse { id, .. } if first.id.starts_with(&id)));
        registry.remove(first).unwrap();
        registry.remove(registry.create(Some("web")).unwrap()).unwrap();
        assert_eq!(left_behind(&registry), 0);
    }

    #[test]
    fn what_a_killed_keeper_left_is_swept_and_its_name_free_again() {
        let (_dir, registry) = registry();
        let killed = registry.create(Some("web")).unwrap();
        write_state(&killed, Status::Running, true);
        drop(killed);
        let before_its_state = registry.create(None).unwrap();
        drop(before_its_state);
        let next = registry.create(Some("web")).unwrap();
        write_state(&next, Status::Running, true);
        registry.sweep().unwrap();
        assert_eq!(registry.list().unwrap().len(), 1);
        registry.remove(next).unwrap();
        assert_eq!(left_behind(&registry), 0);
    }

    #[test]
    fn a_killed_keepers_record_tells_so_where_it_is_kept() {
        let (_dir, registry) = registry();
        let kept = registry.create(Some("web")).unwrap();
        write_state(&kept, Status::Running, false);
        assert_eq!(registry.find("web").unwrap().state.status, Status::Running);
        drop(kept);
        assert_eq!(registry.find("web").unwrap().state.exit_code, Some(137));
        registry.sweep().unwrap();
        assert_eq!(registry.find("web").unwrap().state.status, Status::Exited);
    }

    #[test]
    fn containers_are_found_by_name_and_by_the_beginning_of_their_id() {
        let (_dir, registry) = registry();
        let kept = registry.create(Some("web")).unwrap();
        write_state(&kept, Status::Running, true);
        assert_eq!(registry.find("web").unwrap().state.id, kept.id);
        assert_eq!(registry.find(&kept.id[..5]).unwrap().state.id, kept.id);
        for absent in ["", "we", "../web", "zz", "/"] {
            assert!(matches!(registry.find(absent), Err(RegistryError::NotFound(_))), "{absent}");
        }
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        let (_dir, registry) = registry();
        for name in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(129)] {
            assert!(matches!(registry.create(Some(name)), Err(RegistryError::InvalidName(_))));
        }
    }

    #[test]
    fn many_at_once_get_folders_and_names_of_their_own() {
        let (_dir, registry) = registry();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let kept = registry.create(None).unwrap();
                        write_state(&kept, Status::Created, true);
                        registry.sweep().unwrap();
                        assert!(State::read(&kept.folder.state()).is_ok());
                        registry.remove(kept).unwrap();
                    }
                });
            }
        });
        assert_eq!(left_behind(&registry), 0);
    }
}
