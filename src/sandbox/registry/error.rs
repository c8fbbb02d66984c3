//! Why the registry could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};

use super::super::record::RecordError;
use super::super::state::StateError;
use super::SOCKET_PATH_LIMIT;

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
    /// what a container is
    #[error(transparent)]
    Record(#[from] RecordError),
    /// somebody keeps it already
    #[error("container {0} is running already")]
    Kept(String),
}

pub(super) fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> RegistryError {
    move |source| RegistryError::File { what, path: path.to_owned(), source }
}
