//! Takes names and images away.

use std::fs::{self, File, TryLockError};

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::references::References;
use super::staging::Staging;
use super::{Locked, Store, StoreError, sync_directory};

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// a name
    Untagged(Reference),
    /// an image
    Deleted(Digest),
}

impl Store {
    /// Removes what `text` means, as `docker image rm` does: a name, and with the last name the
    /// image; or by its id an image with all its names, which by `force` may be in several
    /// repositories.
    ///
    /// # Errors
    ///
    /// As [`Store::get`], and [`StoreError::InUse`] while a sandbox holds the image.
    pub fn remove(&self, text: &str, force: bool) -> Result<Vec<Removed>, StoreError> {
        let held = self.lock_exclusive()?;
        let mut references = References::read(&self.references())?;
        let (id, name) = self.find(text, &references, &held)?;
        let names = references.of(id);
        if let Some(name) = name.filter(|_| names.len() > 1) {
            references.unset(&name);
            references.write(&self.references())?;
            return Ok(vec![Removed::Untagged(name)]);
        }
        let one_repository =
            names.windows(2).all(|pair| matches!(pair, [a, b] if a.name() == b.name()));
        if !one_repository && !force {
            let names: Vec<_> = names.iter().map(Reference::familiar).collect();
            return Err(StoreError::Referenced { id, names: names.join(", ") });
        }
        let trash = self.delete(text, id, &names, references, &held)?;
        // Others need not wait while the files go.
        drop(held);
        drop(trash);
        let untagged = names.into_iter().map(Removed::Untagged);
        Ok(untagged.chain([Removed::Deleted(id)]).collect())
    }

    /// Takes an image out of the store; its files go with the result.
    fn delete(
        &self,
        text: &str,
        id: Digest,
        names: &[Reference],
        mut references: References,
        held: &Locked,
    ) -> Result<Staging, StoreError> {
        let folder = self.folder(id);
        let lock = match File::open(&folder) {
            Ok(lock) => lock,
            Err(_) => return Err(StoreError::NotFound(text.to_owned())),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { name: text.to_owned() });
            }
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::io("locking", &folder)(error));
            }
        }
        let trash = Staging::create(self, held)?;
        // Names first: an image without names is whole, a name without an image is not.
        for name in names {
            references.unset(name);
        }
        references.write(&self.references())?;
        let moved = fs::rename(&folder, trash.path().join("image"));
        moved.map_err(StoreError::io("removing", &folder))?;
        sync_directory(&self.images())?;
        Ok(trash)
    }
}
