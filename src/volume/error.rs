//! Why a volume could not be had, or not be removed.

use std::io;
use std::path::{Path, PathBuf};

/// Why a volume could not be had, or not be removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// a name that cannot be one
    #[error(
        "{0:?} is not a valid volume name: 2 to 128 of [a-zA-Z0-9_.-], the first of [a-zA-Z0-9] \
         (a directory of the host is named by an absolute path)"
    )]
    InvalidName(String),
    /// there is none of that name
    #[error("no such volume: {0}")]
    NotFound(String),
    /// a container has it
    #[error("volume {name} is in use by container {}: remove that first (ampoule rm)", users.join(", "))]
    InUse {
        /// the volume
        name: String,
        /// ids of the containers
        users: Vec<String>,
    },
    /// a container is being started with it
    #[error("volume {0} is in use: a container is being started with it, or removed")]
    Held(String),
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
    /// what is written down of it makes no sense
    #[error("the volume's record {} is damaged", path.display())]
    Damaged {
        /// the file
        path: PathBuf,
        /// what is wrong with it
        #[source]
        source: serde_json::Error,
    },
    /// what is written down of it is too long
    #[error("the volume's record {} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// the file
        path: PathBuf,
        /// the limit
        limit: u64,
    },
    /// the kernel gave no random bytes for a name
    #[error("cannot make a name for a volume")]
    Random(#[source] getrandom::Error),
}

pub(super) fn file(what: &'static str, path: &Path) -> impl Fn(io::Error) -> VolumeError {
    move |source| VolumeError::File { what, path: path.to_owned(), source }
}
