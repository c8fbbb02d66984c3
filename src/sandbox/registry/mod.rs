//! The sandboxes and containers of this host: making, finding and clearing away their folders.
//!
//! ```text
//! <state>/sandboxes/<12 digits of the id>/   lock · control.sock · keeper.sock · vsock.sock · about.json · …
//! <data>/containers/<id>/                    config.json · state.json · log.json · layer.img
//! <data>/names/<name> -> <id>                made with one symlink(2): a name has one owner
//! <data>/damaged/<id>/                       a container whose files cannot be trusted
//! ```
//!
//! A sandbox's keeper holds `lock` as long as it lives: a folder whose lock is free was left by a keeper
//! that was killed, and is cleared away by [`Registry::sweep`]. What lasts of a container stays when it
//! ends. Folders are made under a shared lock of the `sandboxes` folder, and removed and swept under an
//! exclusive one, so that no half-made folder is taken for a left one and no name changes hands unseen.

mod error;
mod folder;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};

use super::places::Places;
use super::record::Record;
use super::state::{State, StateError, Status};
use crate::image::Users;
use crate::random;
pub use error::RegistryError;
use error::file;
pub use folder::{Folder, InGuest};
pub use sweep::Damaged;
use sweep::killed;

/// Length of `sun_path` without its end: a Unix socket's path must fit.
const SOCKET_PATH_LIMIT: usize = 107;

/// A container as another command finds it.
#[derive(Debug)]
pub struct Entry {
    /// Its folders.
    pub folder: Folder,
    /// Its state, `exited` where its keeper was killed.
    pub state: State,
}

impl Entry {
    /// Where its agent is asked for it.
    pub fn in_guest(&self) -> InGuest {
        self.folder.in_guest(&self.state)
    }

    /// What the container is.
    pub fn record(&self) -> Result<Record, RegistryError> {
        Ok(Record::read(&self.folder.record)?)
    }
}

/// A sandbox's folder that this process keeps.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The folder.
    pub folder: Folder,
    /// Id of the sandbox.
    pub id: String,
    /// Its name; empty for one without.
    pub name: String,
    /// It has never run: where that fails nothing of it is to stay.
    pub fresh: bool,
    /// Held until the keeper ends, however it ends.
    _lock: Arc<Flock<File>>,
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

    /// Where things are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Makes the folders of a new container, locked by this process; a random name where none is given.
    pub fn create(&self, name: Option<&str>) -> Result<Kept, RegistryError> {
        let id = random::id().map_err(RegistryError::Random)?;
        let making = self.lock_all(FlockArg::LockShared)?;
        for folder in [self.places.containers(), self.places.names()] {
            make_folder(&folder)?;
            Self::own(&folder)?;
        }
        let (_making, name) = self.claim(name, &id, making)?;
        let made = make_folder(&self.places.container(&id)).and_then(|()| self.keep(&id, &name));
        if made.is_err() {
            self.forget(&self.folder(&id), &id)?;
        }
        made
    }

    /// Makes the folder of a new sandbox that is known by no name, and leaves no record.
    pub fn create_unnamed(&self) -> Result<Kept, RegistryError> {
        let id = random::id().map_err(RegistryError::Random)?;
        let _making = self.lock_all(FlockArg::LockShared)?;
        self.keep(&id, "")
    }

    /// Takes a container that nobody keeps: it is to be started again.
    pub fn reopen(&self, id: &str) -> Result<Kept, RegistryError> {
        let _making = self.lock_all(FlockArg::LockShared)?;
        let entry = self.entry(self.folder(id))?;
        let kept = self.keep(id, &entry.state.name)?;
        Ok(Kept { fresh: false, ..kept })
    }

    fn keep(&self, id: &str, name: &str) -> Result<Kept, RegistryError> {
        let folder = self.folder(id);
        let longest = crate::agent::ReadyListener::path(&folder.vsock());
        if longest.as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(RegistryError::PathTooLong(longest));
        }
        make_folder(&folder.path)?;
        let lock = File::create(folder.lock()).map_err(file("create", &folder.lock()))?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                // Those of a keeper that was killed would be in the way.
                folder.remove_sockets();
                let (id, name) = (id.to_owned(), name.to_owned());
                Ok(Kept { folder, id, name, fresh: true, _lock: Arc::new(lock) })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RegistryError::Kept(name.to_owned())),
            Err((_, errno)) => Err(file("lock", &folder.lock())(errno.into())),
        }
    }

    /// Clears away what this process keeps, the container's record too.
    pub fn remove(&self, kept: Kept) -> Result<(), RegistryError> {
        let _removing = self.lock_all(FlockArg::LockExclusive)?;
        self.forget(&kept.folder, &kept.id)
    }

    /// Keeps it no more; the container's record stays.
    pub fn rest(&self, kept: Kept) -> Result<(), RegistryError> {
        let _removing = self.lock_all(FlockArg::LockExclusive)?;
        remove_tree(&kept.folder.path)
    }

    /// Clears away a container that nobody keeps.
    pub fn remove_entry(&self, entry: &Entry) -> Result<(), RegistryError> {
        let _removing = self.lock_all(FlockArg::LockExclusive)?;
        if entry.folder.is_kept() {
            return Err(RegistryError::Kept(entry.state.name.clone()));
        }
        self.forget(&entry.folder, &entry.state.id)
    }

    /// Gives a container another name.
    pub fn rename(&self, entry: &Entry, name: &str) -> Result<(), RegistryError> {
        let _renaming = self.lock_all(FlockArg::LockExclusive)?;
        if !is_valid_name(name) {
            return Err(RegistryError::InvalidName(name.to_owned()));
        }
        if !self.link(name, &entry.state.id)? {
            let id = self.owner_of(name).unwrap_or_default();
            return Err(RegistryError::NameInUse { name: name.to_owned(), id });
        }
        self.unlink(|link, id| id == entry.state.id && link != name)
    }

    /// Every container, oldest first. One without a readable state is being made, or left for
    /// [`Registry::sweep`].
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        Ok(self.look()?.0)
    }

    /// Every container, oldest first, and those whose files cannot be trusted.
    pub fn look(&self) -> Result<(Vec<Entry>, Vec<Damaged>), RegistryError> {
        let names = self.name_of_each();
        let (mut entries, mut damaged) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.entry_named(self.folder(&id), names.get(&id)) {
                Ok(entry) => entries.push(entry),
                Err(error) if error.is_missing() => {}
                Err(error) => damaged.push(Damaged { id, error }),
            }
        }
        entries.sort_by_key(|entry| entry.state.created);
        Ok((entries, damaged))
    }

    /// The folders of all sandboxes that a keeper lives for, those without a name among them.
    pub fn kept(&self) -> Result<Vec<Folder>, RegistryError> {
        let mut folders = self.run_folders()?;
        folders.retain(Folder::is_kept);
        folders.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(folders)
    }

    /// The container of a name, an id or an id's unambiguous beginning.
    pub fn find(&self, wanted: &str) -> Result<Entry, RegistryError> {
        if is_valid_name(wanted)
            && let Some(id) = self.owner_of(wanted)
        {
            let name = wanted.to_owned();
            match self.entry_named(self.folder(&id), Some(&name)) {
                Err(error) if error.is_missing() => {}
                other => return Ok(other?),
            }
        }
        let mut found = None;
        if !wanted.is_empty() && wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
            for id in self.ids()?.into_iter().filter(|id| id.starts_with(wanted)) {
                if found.replace(id).is_some() {
                    return Err(RegistryError::Ambiguous(wanted.to_owned()));
                }
            }
        }
        let missing = || RegistryError::NotFound(wanted.to_owned());
        match self.entry(self.folder(&found.ok_or_else(missing)?)) {
            Err(error) if error.is_missing() => Err(missing()),
            other => Ok(other?),
        }
    }

    /// The state of a sandbox that is a container's.
    pub fn state_of(&self, folder: &Folder) -> Option<State> {
        self.entry(folder.clone()).ok().map(|entry| entry.state)
    }

    /// Refuses a folder that others could have prepared or can write to: what is read there is acted on.
    fn own(folder: &Path) -> Result<(), RegistryError> {
        let metadata = match fs::metadata(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(file("look at", folder))?,
        };
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(RegistryError::NotOurs(folder.to_owned()));
        }
        Ok(())
    }

    fn entry(&self, folder: Folder) -> Result<Entry, StateError> {
        let name = folder.id().and_then(|id| self.name_of_each().remove(&id));
        self.entry_named(folder, name.as_ref())
    }

    fn entry_named(&self, folder: Folder, name: Option<&String>) -> Result<Entry, StateError> {
        // Looked at before the state is read: one that ends meanwhile has written its end down.
        let kept = folder.is_kept();
        let mut state = State::read(&folder.state())?;
        if !kept && state.keeper.is_some() && state.status != Status::Exited {
            state = killed(state);
        }
        if let Some(name) = name {
            state.name.clone_from(name);
        }
        Ok(Entry { folder, state })
    }

    fn folder(&self, id: &str) -> Folder {
        let short = id.get(..12).unwrap_or(id);
        Folder { path: self.places.sandboxes().join(short), record: self.places.container(id) }
    }

    /// Ids of all containers.
    fn ids(&self) -> Result<Vec<String>, RegistryError> {
        let all = self.places.containers();
        Self::own(&all)?;
        Ok(entries_of(&all)?.into_iter().filter(|name| is_id(name)).collect())
    }

    /// The folders of sandboxes, whether somebody keeps them or not.
    fn run_folders(&self) -> Result<Vec<Folder>, RegistryError> {
        let all = self.places.sandboxes();
        Self::own(&all)?;
        let ids = self.ids()?;
        let folder = |short: String| match ids.iter().find(|id| id.starts_with(&short)) {
            Some(id) => self.folder(id),
            None => Folder { path: all.join(&short), record: self.places.container(&short) },
        };
        Ok(entries_of(&all)?.into_iter().map(folder).collect())
    }

    fn lock_all(&self, how: FlockArg) -> Result<Flock<File>, RegistryError> {
        let all = self.places.sandboxes();
        make_folder(&all)?;
        Self::own(&all)?;
        let folder = File::open(&all).map_err(file("open", &all))?;
        Flock::lock(folder, how).map_err(|(_, errno)| file("lock", &all)(errno.into()))
    }

    /// Makes `name`, or a random one, this container's; a name whose owner was killed or is gone is
    /// taken over. The lock keeps sweepers out until the folder is made too.
    fn claim(
        &self,
        name: Option<&str>,
        id: &str,
        making: Flock<File>,
    ) -> Result<(Flock<File>, String), RegistryError> {
        let Some(name) = name else {
            let short = id.get(..12).unwrap_or(id);
            let random = std::iter::repeat_with(|| petname::petname(2, "_")).take(8).flatten();
            for name in random.chain([short.to_owned()]) {
                if self.link(&name, id)? {
                    return Ok((making, name));
                }
            }
            let id = self.owner_of(short).unwrap_or_default();
            return Err(RegistryError::NameInUse { name: short.to_owned(), id });
        };
        if !is_valid_name(name) {
            return Err(RegistryError::InvalidName(name.to_owned()));
        }
        if self.link(name, id)? {
            return Ok((making, name.to_owned()));
        }
        drop(making);
        self.sweep()?;
        let making = self.lock_all(FlockArg::LockShared)?;
        if self.link(name, id)? {
            return Ok((making, name.to_owned()));
        }
        let id = self.owner_of(name).unwrap_or_default();
        Err(RegistryError::NameInUse { name: name.to_owned(), id })
    }

    /// Whether `name` was free and is now this container's.
    fn link(&self, name: &str, id: &str) -> Result<bool, RegistryError> {
        let link = self.places.names().join(name);
        match symlink(id, &link) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(file("create", &link)(e)),
        }
    }

    /// Frees the names that this says so of, by name and owner.
    fn unlink(&self, free: impl Fn(&str, &str) -> bool) -> Result<(), RegistryError> {
        let names = self.places.names();
        for name in entries_of(&names)? {
            let owner = self.owner_of(&name).unwrap_or_default();
            if free(&name, &owner) {
                let link = names.join(name);
                remove_file(&link).map_err(file("remove", &link))?;
            }
        }
        Ok(())
    }

    fn owner_of(&self, name: &str) -> Option<String> {
        let id = fs::read_link(self.places.names().join(name)).ok()?;
        let id = id.to_str()?;
        is_id(id).then(|| id.to_owned())
    }

    fn name_of_each(&self) -> HashMap<String, String> {
        let names = entries_of(&self.places.names()).unwrap_or_default().into_iter();
        names.filter_map(|name| Some((self.owner_of(&name)?, name))).collect()
    }

    /// The name last: whatever is left by a kill in between is found again.
    fn forget(&self, folder: &Folder, id: &str) -> Result<(), RegistryError> {
        remove_tree(&folder.record)?;
        remove_tree(&folder.path)?;
        self.unlink(|_, owner| owner == id)
    }
}

/// Which images these containers were made of, with the name of one for each.
pub fn images_of(entries: &[Entry]) -> Users {
    let of = |entry: &Entry| {
        // Damaged, it can be started no more.
        let image = entry.record().ok()?.image.parse().ok()?;
        Some((image, entry.state.name.clone()))
    };
    entries.iter().filter_map(of).collect()
}

impl Kept {
    /// Writes down what the container is.
    pub fn write_record(&self, record: &Record) -> Result<(), RegistryError> {
        Ok(record.write(&self.folder.record)?)
    }
}

/// Names of what a folder holds; nothing where there is none.
fn entries_of(folder: &Path) -> Result<Vec<String>, RegistryError> {
    let read = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file("read", folder))?,
    };
    Ok(read.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn make_folder(path: &Path) -> Result<(), RegistryError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(file("create", path))
}

/// Whether this is a container's whole id.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
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
