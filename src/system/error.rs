//! Why an installation was not made, or not undone.

use std::io;
use std::path::{Path, PathBuf};

use super::containerd::ConfigError;
use crate::sandbox::{GuestFilesError, RegistryError};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// a path that could mean anything
    #[error("{} is no absolute path without ..", .0.display())]
    NotAbsolute(PathBuf),
    /// what there is to install
    #[error(transparent)]
    Guest(#[from] GuestFilesError),
    /// nothing of this prefix's
    #[error("nothing is installed there: there is no {}", .0.display())]
    NotInstalled(PathBuf),
    /// a record that nobody here has written
    #[error("{} is not the record of an installation by this ampoule: {reason}", path.display())]
    Record {
        /// the record
        path: PathBuf,
        /// what is wrong with it
        reason: String,
    },
    /// containerd's configuration
    #[error("containerd's configuration {}", path.display())]
    Config {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: ConfigError,
    },
    /// a link in another system's files, which may lead anywhere
    #[error("{} is a link: name the file itself with --config", .0.display())]
    Link(PathBuf),
    /// programs that run
    #[error(
        "{0} sandboxes are running, and cannot be ended without what is to be removed: end them \
         first, or use --force"
    )]
    Running(usize),
    /// which run
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// systemd did not restart containerd
    #[error("cannot restart containerd: {0}")]
    Restart(String),
    /// a file or folder
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
}

/// A failed operation on a file.
pub fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> SystemError {
    let path = path.to_owned();
    move |source| SystemError::File { what, path: path.clone(), source }
}
