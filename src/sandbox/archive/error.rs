//! Why files could not be copied.

use std::io;
use std::path::PathBuf;

use ampoule_protocol::archive::{PackError, PlaceError, WalkError};

use crate::image::limits::LimitError;
use crate::image::tar_stream::TarError;
use crate::image::tree::NameError;

/// Why files could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// nothing is there
    #[error("could not find the file {path} in container {container}")]
    NotFound {
        /// where
        path: String,
        /// of which container
        container: String,
    },
    /// a directory in the place of something else
    #[error("cannot copy directory")]
    Directory,
    /// the destination is to be one
    #[error("no such directory")]
    NoDirectory,
    /// an archive needs a directory to go to
    #[error("destination \"{container}:{path}\" must be a directory")]
    Destination {
        /// of which container
        container: String,
        /// where
        path: String,
    },
    /// the folder of the destination
    #[error("invalid output path: directory {0:?} does not exist")]
    NoFolder(PathBuf),
    /// where a container does not run and its layer does not last
    #[error(
        "container {0} does not run, and what it writes is kept in memory: what is copied to it would be lost"
    )]
    InMemory(String),
    /// the archive
    #[error("the archive cannot be read")]
    Tar(#[from] TarError),
    /// one of its names
    #[error("the archive's entry {path:?} is refused")]
    Name {
        /// the name
        path: String,
        /// why
        #[source]
        source: NameError,
    },
    /// a symbolic link of it
    #[error("the archive's entry {0:?} is refused: its symbolic link leads nowhere")]
    Link(String),
    /// a file of this host cannot be made
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// files of this host cannot be read
    #[error(transparent)]
    Walk(#[from] WalkError<PackError>),
    /// the archive cannot be written
    #[error(transparent)]
    Pack(#[from] PackError),
    /// one of the bounds of what is taken
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// what the agent tells of changes
    #[error("the guest's agent tells of its changes what cannot be understood")]
    Changes,
    /// the agent says more than it should
    #[error("the guest's agent sends more than the archive")]
    Trailing,
    /// reading or writing
    #[error("cannot {what}")]
    Io {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a file of this host
    #[error("cannot {what} {}", path.display())]
    File {
        /// what was attempted
        what: &'static str,
        /// with which
        path: PathBuf,
        /// why it failed
        #[source]
        source: io::Error,
    },
}

impl ArchiveError {
    /// A failed attempt.
    pub fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
