//! The one error type of the agent's requests, and its way onto the wire.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use ampoule_protocol::message::{AgentError, ErrorKind};

/// Why a request could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// the guest's kernel refused something
    #[error("cannot {action}")]
    System {
        /// What was tried, on what: "mount tmpfs on /dev".
        action: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// the request or the spec is not valid
    #[error("{0}")]
    Invalid(String),
    /// the spec asks for something that the agent does not do
    #[error("{0} is not supported")]
    Unsupported(String),
    /// no such container or process
    #[error("no {what} {name:?}")]
    NotFound {
        /// `container` or `process`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// the name is taken
    #[error("{what} {name:?} is there already")]
    AlreadyExists {
        /// `container` or `process`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// not possible in this state
    #[error("{0}")]
    WrongState(String),
    /// the container's program is not there
    #[error("exec: {program:?}: {reason}")]
    CommandNotFound {
        /// As the spec names it.
        program: String,
        /// In the words that callers know from other runtimes.
        reason: &'static str,
    },
    /// the container's program cannot be executed
    #[error("exec: {program:?}: {reason}")]
    CommandNotExecutable {
        /// As the spec names it.
        program: String,
        /// In the words that callers know from other runtimes.
        reason: &'static str,
    },
    /// the setup stage reported this
    #[error(transparent)]
    Reported(#[from] AgentError),
}

/// What most of the agent returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A refusal of the kernel.
    pub fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { action: action.into(), source: source.into() }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::System { .. } => ErrorKind::Internal,
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::WrongState(_) => ErrorKind::WrongState,
            Self::CommandNotFound { .. } => ErrorKind::CommandNotFound,
            Self::CommandNotExecutable { .. } => ErrorKind::CommandNotExecutable,
            Self::Reported(e) => e.kind,
        }
    }
}

impl From<Error> for AgentError {
    /// The chain of sources becomes one line: the wire has no chain.
    fn from(error: Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(e) = source {
            let _ = write!(message, ": {e}");
            source = e.source();
        }
        AgentError::new(error.kind(), message)
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the failure into [`Error::System`]; `action` is only made when it is needed.
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::system(action(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_message_names_action_and_reason() {
        let error = Error::system("mount tmpfs on /dev", io::Error::from_raw_os_error(libc::EPERM));
        let wire = AgentError::from(error);
        assert_eq!(wire.kind, ErrorKind::Internal);
        assert_eq!(
            wire.message,
            "cannot mount tmpfs on /dev: Operation not permitted (os error 1)"
        );
    }
}
