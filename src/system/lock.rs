//! One installation or its undoing at a time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::{SystemError, file};

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _held: Flock<File>,
}

impl Lock {
    /// Waits until nobody else is at work in this folder, which is made where it is not there.
    pub fn take(folder: &Path) -> Result<Self, SystemError> {
        let path = folder.join(".lock");
        loop {
            fs::create_dir_all(folder).map_err(file("create", folder))?;
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            let opened = match opened {
                // Whoever undid an installation has just taken the folder away.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(file("open", &path))?,
            };
            let held = Flock::lock(opened, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file("lock", &path)(errno.into()))?;
            let ours = held.metadata().map_err(file("look at", &path))?;
            // The one before may have removed it: then somebody else locks another file.
            if fs::metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
            {
                return Ok(Self { path, _held: held });
            }
        }
    }

    /// Removes its file, and the folder where nothing else is in it.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
}
