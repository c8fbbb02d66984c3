//! Takes names and images away.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::references::References;
use super::staging::Staging;
use super::{Locked, ROOTFS, Store, StoreError, sync_directory};

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
        if let Some(name) = name {
            let gone = with_digests(&name, &names);
            if gone.len() < names.len() {
                gone.iter().for_each(|name| references.unset(name));
                references.write(&self.references())?;
                return Ok(gone.into_iter().map(Removed::Untagged).collect());
            }
        } else {
            let one_repository =
                names.windows(2).all(|pair| matches!(pair, [a, b] if a.name() == b.name()));
            if !one_repository && !force {
                let names: Vec<_> = names.iter().map(Reference::familiar).collect();
                return Err(StoreError::Referenced { id, names: names.join(", ") });
            }
        }
        let trash = Staging::create(self, &held)?;
        self.delete(text, id, &names, &mut references, &trash, &held)?;
        // Others need not wait while the files go.
        drop(held);
        drop(trash);
        let untagged = names.into_iter().map(Removed::Untagged);
        Ok(untagged.chain([Removed::Deleted(id)]).collect())
    }

    /// Gives the image that `source` means one more name.
    ///
    /// # Errors
    ///
    /// As [`Store::get`], and [`StoreError::TagDigest`] for a name with a digest.
    pub fn tag(&self, source: &str, target: Reference) -> Result<(), StoreError> {
        if target.digest().is_some() {
            return Err(StoreError::TagDigest(target.familiar()));
        }
        let held = self.lock_exclusive()?;
        let mut references = References::read(&self.references())?;
        let (id, _) = self.find(source, &references, &held)?;
        references.set(target, id);
        references.write(&self.references())
    }

    /// Gives an image that is held one more name.
    pub(in crate::image) fn name(&self, name: Reference, id: Digest) -> Result<(), StoreError> {
        let _held = self.lock_exclusive()?;
        let mut references = References::read(&self.references())?;
        references.set(name, id);
        references.write(&self.references())
    }

    /// Takes an image out of the store, with the layers that no other has; its files go with
    /// `trash`.
    pub(super) fn delete(
        &self,
        text: &str,
        id: Digest,
        names: &[Reference],
        references: &mut References,
        trash: &Staging,
        held: &Locked,
    ) -> Result<u64, StoreError> {
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
        if let Some(container) = self.users.get(&id) {
            let (name, container) = (text.to_owned(), container.clone());
            return Err(StoreError::HasContainer { name, container });
        }
        // Names first: an image without names is whole, a name without an image is not.
        for name in names {
            references.unset(name);
        }
        references.write(&self.references())?;
        let layers = self.layers_of(id);
        let rootfs = fs::metadata(folder.join(ROOTFS)).map_or(0, |file| file.blocks() * 512);
        let moved = fs::rename(&folder, trash.path().join(format!("image-{}", id.hex())));
        moved.map_err(StoreError::io("removing", &folder))?;
        sync_directory(&self.images())?;
        // A layer too many is no harm, and the image is gone: `prune` looks for them again.
        Ok(rootfs + self.discard(layers, trash, held).unwrap_or(0))
    }
}

/// `name`, and where it is the last tag of its repository, what the image was pulled by from there.
fn with_digests(name: &Reference, names: &[Reference]) -> Vec<Reference> {
    let same = |other: &&Reference| other.name() == name.name();
    let other_tag =
        names.iter().filter(same).any(|other| other != name && other.digest().is_none());
    if other_tag || name.digest().is_some() {
        return vec![name.clone()];
    }
    names.iter().filter(same).cloned().collect()
}
