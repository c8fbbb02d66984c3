use std::io;

use super::super::compression::Unsupported;
use super::super::digest::{Digest, DigestError};
use super::super::limits::LimitError;
use super::super::tar_stream::TarError;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// neither a tar file nor a compressed one
    #[error("this is not a tar archive")]
    NotAnArchive,
    /// a tar file without an image layout
    #[error(
        "no image in the archive: neither an OCI layout (index.json) nor one of `docker save` \
         (manifest.json)"
    )]
    NoImage,
    /// the archive could not be read
    #[error("reading the archive failed")]
    Read(#[source] io::Error),
    /// the archive could not be kept for reading
    #[error("storing the archive failed")]
    Spool(#[source] io::Error),
    /// its entries are damaged
    #[error(transparent)]
    Tar(#[from] TarError),
    /// a compression that cannot be undone
    #[error(transparent)]
    Compression(#[from] Unsupported),
    /// one of the bounds of the load
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// a file whose name leads out of the archive
    #[error("the entry {0:?} is refused: its name or link target lies outside the archive")]
    Name(String),
    /// a file that could not be read
    #[error("reading {name} of the archive failed")]
    File {
        /// its name
        name: String,
        /// why
        #[source]
        source: io::Error,
    },
    /// a file that must be there
    #[error("{0} is missing in the archive")]
    Missing(String),
    /// a JSON document that is larger than any is
    #[error("{name} is larger than {limit} bytes")]
    Large {
        /// the document
        name: String,
        /// the bound
        limit: u64,
    },
    /// a JSON document that is not what it should be
    #[error("{name} is not valid")]
    Json {
        /// the document
        name: String,
        /// where and why
        #[source]
        source: serde_json::Error,
    },
    /// a digest that is not one
    #[error("{name} names an invalid digest")]
    DigestSyntax {
        /// the document
        name: String,
        /// the digest
        #[source]
        source: DigestError,
    },
    /// a file that is not what its digest says
    #[error("{name} is damaged: its digest is {actual}, expected {expected}")]
    Digest {
        /// the file
        name: String,
        /// as the archive states it
        expected: Digest,
        /// as it is
        actual: Digest,
    },
    /// a file that has not the size its descriptor says
    #[error("{name} is damaged: its size is {actual} bytes, expected {expected}")]
    Size {
        /// the file
        name: String,
        /// as the archive states it
        expected: u64,
        /// as it is
        actual: u64,
    },
    /// an image for other machines only
    #[error("the image in the archive is for {0}; it needs one for linux/{arch}", arch = super::ARCHITECTURE)]
    Platform(String),
    /// configuration and manifest do not agree
    #[error("{name} lists {layers} layers, the image's configuration {diff_ids}")]
    LayerCount {
        /// the manifest
        name: String,
        /// layers of the manifest
        layers: usize,
        /// layers of the configuration
        diff_ids: usize,
    },
}

impl ArchiveError {
    /// A failure to keep the archive.
    pub fn spool(error: io::Error) -> Self {
        LimitError::of_write(&error).map_or_else(|| Self::Spool(error), Self::Limit)
    }
}
