//! Why the kernel's packet filter is not as it was asked for.

use std::fmt;
use std::io;

/// Why the kernel's packet filter is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// no socket, or one that fails
    #[error("cannot speak to the kernel's packet filter")]
    Socket(#[source] io::Error),
    /// the kernel refused a message, and with it the whole transaction
    #[error("the kernel refuses {subject}")]
    Refused {
        /// what was asked for
        subject: Subject,
        /// which message of the batch it was
        index: usize,
        /// why
        #[source]
        source: io::Error,
    },
    /// a message or an attribute is longer than its length can say
    #[error("a message to the kernel's packet filter would be too long")]
    TooLong,
    /// the kernel's answer is none
    #[error("the kernel's packet filter gave an answer that is none")]
    Answer,
}

impl NftError {
    /// What the kernel said, and of which message.
    pub fn refusal(&self) -> Option<(usize, i32)> {
        match self {
            Self::Refused { index, source, .. } => Some((*index, source.raw_os_error()?)),
            _ => None,
        }
    }
}

/// A message of a batch that the kernel does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Which message it was.
    pub index: usize,
    /// Why: an error's number.
    pub code: i32,
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What is done.
    pub verb: &'static str,
    /// With what.
    pub what: &'static str,
    /// Whose, or which.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {} {} {}", self.verb, self.what, self.name)
    }
}
