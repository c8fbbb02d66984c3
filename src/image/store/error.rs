use std::io;
use std::path::{Path, PathBuf};

use super::super::archive::ARCHITECTURE;
use super::super::digest::Digest;
use super::super::limits::LimitError;
use super::super::reference::ReferenceError;

/// Why the store cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// no image has the name, id or digest
    #[error(
        "no such image: {0:?}: pull it (ampoule pull NAME), load it from an archive (ampoule load -i \
         FILE), or see which there are (ampoule image ls)"
    )]
    NotFound(String),
    /// a text that can be neither name nor id
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// the start of more than one id
    #[error("the image id {0:?} is ambiguous: give more of its digits")]
    Ambiguous(String),
    /// a sandbox holds the image
    #[error("the image {name} is in use by a sandbox: stop the sandbox first")]
    InUse {
        /// as the user named it
        name: String,
    },
    /// a container was made of the image
    #[error(
        "the image {name} is that of container {container}: remove the container first, or force it (-f)"
    )]
    HasContainer {
        /// as the user named it
        name: String,
        /// its name
        container: String,
    },
    /// an id whose image has names in several repositories
    #[error(
        "the image {id} has names in several repositories ({names}): remove these, or all by \
         force (-f)"
    )]
    Referenced {
        /// the image
        id: Digest,
        /// its names
        names: String,
    },
    /// a file of the store that is not what it should be
    #[error("the image store is damaged: {} is not valid", path.display())]
    Damaged {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// a layer that is not what its digest says
    #[error(
        "the layer {digest} is damaged: its digest is {actual}; it is set aside as {}: load or pull \
         its image again",
        aside.display()
    )]
    Blob {
        /// its digest
        digest: Digest,
        /// that of what is there
        actual: Digest,
        /// where it is now
        aside: PathBuf,
    },
    /// an image for other machines
    #[error(
        "the image {id} is for linux/{found} and cannot run on this machine, which is linux/{arch}: \
         pull the one for it (ampoule pull --platform linux/{arch} NAME)",
        arch = ARCHITECTURE
    )]
    Platform {
        /// the image
        id: Digest,
        /// the architecture that it is for
        found: String,
    },
    /// layers of an image that are not there
    #[error("the layers of the image {0} are not in the store: load or pull it again")]
    NoLayers(Digest),
    /// a name that only what it was pulled by can have
    #[error("{0:?} has a digest: only a name and a tag can be given")]
    TagDigest(String),
    /// the file system of the store is full
    #[error(
        "there is no room for {}: free some space in its file system, or remove images with \
         `ampoule image rm`",
        path.display()
    )]
    Full {
        /// the store, or the file of it that was written
        path: PathBuf,
    },
    /// the file system said no
    #[error("{what} {} failed", path.display())]
    Io {
        /// what was attempted
        what: &'static str,
        /// with which file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Makes an [`io::Error`] an error of the store.
    pub(in crate::image) fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| match LimitError::of_write(&source) {
            Some(_) => Self::Full { path: path.to_owned() },
            None => Self::Io { what, path: path.to_owned(), source },
        }
    }
}
