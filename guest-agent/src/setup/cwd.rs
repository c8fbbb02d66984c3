//! The process's working directory.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{fchdir, getcwd};

use super::paths::Root;
use crate::error::{Doing, Error, Result};

/// Enters it; it is made where it is missing.
pub fn enter(root: &Root, path: &Path) -> Result<()> {
    let action = || format!("enter the working directory {}", path.display());
    let directory = match root.open_in(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
        Err(Errno::ENOENT) => root.make_directory(path)?,
        result => result.doing(action)?,
    };
    fchdir(&directory).doing(action)?;
    // The kernel names a directory beyond the root "(unreachable)".
    match getcwd() {
        Ok(directory) if directory.is_absolute() => Ok(()),
        Ok(_) => Err(Error::Invalid(format!("working directory {} left the root", path.display()))),
        Err(e) => Err(e).doing(action),
    }
}
