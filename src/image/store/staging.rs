//! Folders for what is half done, each locked by its process for as long as that lives.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Locked, Store, StoreError};

/// A folder under `staging/` that goes with its owner. A killed owner leaves it behind unlocked,
/// which is how the next one knows it for a leftover.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is a leftover for the next load.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Staging {
    /// Makes a folder. The store is locked meanwhile, so that nobody takes the folder for a
    /// leftover before it is locked itself.
    pub fn create(store: &Store, _held: &Locked) -> Result<Self, StoreError> {
        let parent = store.staging();
        let failed = StoreError::io("creating a folder in", &parent);
        let path = tempfile::Builder::new().prefix("").tempdir_in(&parent).map_err(&failed)?.keep();
        let lock = File::open(&path).map_err(&failed)?;
        let staging = Self { path, _lock: lock };
        staging._lock.lock().map_err(&failed)?;
        Ok(staging)
    }

    /// Folders of processes that were killed; dropping them removes them.
    pub fn leftovers(store: &Store, _held: &Locked) -> Result<Vec<Self>, StoreError> {
        let parent = store.staging();
        let entries = fs::read_dir(&parent).map_err(StoreError::io("reading", &parent))?;
        let unlocked = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let lock = File::open(&path).ok()?;
            lock.try_lock().ok()?;
            Some(Self { path, _lock: lock })
        });
        Ok(unlocked.collect())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
