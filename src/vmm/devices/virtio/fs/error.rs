//! What can go wrong with a file system device.

use std::io;
use std::path::PathBuf;

/// A file system device that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// the guest mounts it by a name that has to fit into the configuration space
    #[error("share {0:?}: its tag is not 1 to 36 bytes without a zero byte")]
    Tag(String),
    /// not a name of a directory entry
    #[error("share {tag}: {name:?} is not a name for a directory entry")]
    Name {
        /// the device
        tag: String,
        /// the name
        name: String,
    },
    /// it does not exist, may not be reached, …
    #[error("share {tag}: {path} cannot be shared")]
    Path {
        /// the device
        tag: String,
        /// what was to be shared
        path: PathBuf,
        /// why not
        #[source]
        source: io::Error,
    },
    /// a file in the place of the whole tree
    #[error("share {tag}: {path} is not a directory")]
    NotADirectory {
        /// the device
        tag: String,
        /// what was to be shared
        path: PathBuf,
    },
    /// nobody has handed over what is to be served
    #[error("share {tag}: its directory was not handed over")]
    NotGiven {
        /// the device
        tag: String,
    },
    /// the kernel refused a mount
    #[error("share {tag}: cannot {what}")]
    Mount {
        /// the device
        tag: String,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// the kernel refused a mount namespace
    #[error("cannot make a mount namespace for shares")]
    Namespace(#[source] io::Error),
    /// the host is out of eventfds or descriptors
    #[error("cannot make a file system device")]
    Host(#[source] io::Error),
}
