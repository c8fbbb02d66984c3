//! Takes away what nobody needs.

use std::fs::{self, File};
use std::path::Path;

use super::references::References;
use super::staging::Staging;
use super::{Removed, Store, StoreError};

/// What went, and how much room it took.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// names and images
    pub removed: Vec<Removed>,
    /// bytes of the disk
    pub bytes: u64,
}

impl Store {
    /// Removes images without a tag, or with `all` every image; not those that a sandbox holds. What
    /// is left of pulls that were given up goes with them, and what was damaged.
    ///
    /// # Errors
    ///
    /// If the store cannot be read or written.
    pub fn prune(&self, all: bool) -> Result<Pruned, StoreError> {
        let held = self.lock_exclusive()?;
        let leftovers = Staging::leftovers(self, &held)?;
        let trash = Staging::create(self, &held)?;
        let mut references = References::read(&self.references())?;
        let mut pruned = Pruned::default();
        for id in self.ids()? {
            let names = references.of(id);
            if !all && names.iter().any(|name| name.tag().is_some()) {
                continue;
            }
            let deleted = self.delete(&id.to_string(), id, &names, &mut references, &trash, &held);
            match deleted {
                Ok(bytes) => pruned.bytes += bytes,
                Err(StoreError::InUse { .. } | StoreError::HasContainer { .. }) => continue,
                Err(error) => return Err(error),
            }
            pruned.removed.extend(names.into_iter().map(Removed::Untagged));
            pruned.removed.push(Removed::Deleted(id));
        }
        pruned.bytes += self.discard(self.all_blobs()?, &trash, &held)?;
        for folder in [self.downloads(), self.damaged()] {
            pruned.bytes += sweep(&folder, &trash)?;
        }
        drop(held);
        drop(trash);
        drop(leftovers);
        Ok(pruned)
    }
}

/// Moves the files of a folder that nobody holds to `trash`.
fn sweep(folder: &Path, trash: &Staging) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        // A lock's own file goes with who holds it.
        if Store::is_fetched(&path) || file.try_lock().is_err() {
            continue;
        }
        bytes += file.metadata().map_or(0, |metadata| metadata.len());
        fs::rename(&path, trash.path().join(entry.file_name()))
            .map_err(StoreError::io("removing", &path))?;
    }
    Ok(bytes)
}
