use std::io;

use super::super::limits::LimitError;

/// Why a tar stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// the stream ends inside an entry
    #[error("the archive is cut short (at byte {position})")]
    Truncated {
        /// bytes of the stream before the missing one
        position: u64,
    },
    /// a header block whose checksum does not fit: damaged, or no tar archive at all
    #[error("no tar header at byte {position}")]
    Header {
        /// where the block starts
        position: u64,
    },
    /// a field that is no number of its range
    #[error("{path:?} has no valid {field}")]
    Field {
        /// the entry
        path: String,
        /// the header field or extended header record
        field: &'static str,
    },
    /// a PAX extended header that does not follow its grammar
    #[error("malformed extended header before byte {position}")]
    Extended {
        /// where the extended header ends
        position: u64,
    },
    /// an extended header, long name or sparse map that is too large to be meant
    #[error("the {what} before byte {position} is larger than {limit} bytes")]
    TooLarge {
        /// what is too large
        what: &'static str,
        /// where it starts
        position: u64,
        /// the bound
        limit: u64,
    },
    /// data of a sparse file out of order, overlapping or beyond its end
    #[error("the sparse file {path:?} has an invalid map")]
    Sparse {
        /// the entry
        path: String,
    },
    /// an entry that is no file, directory, link, device or FIFO
    #[error("{path:?} is an entry of the unknown type {kind:?}")]
    Kind {
        /// the entry
        path: String,
        /// the type flag
        kind: char,
    },
    /// one of the bounds of the load
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// the bytes could not be read or decompressed
    #[error("the data at byte {position} cannot be read")]
    Read {
        /// bytes of the stream before the failure
        position: u64,
        /// why
        #[source]
        source: io::Error,
    },
}
