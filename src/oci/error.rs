//! Why the runtime could not do what it was asked: in runc's words, where callers look for them.

use std::io;
use std::path::{Path, PathBuf};

use super::bundle::BundleError;
use super::hooks::HookError;
use super::record::Status;
use super::translate::TranslateError;
use crate::agent::ClientError;
use crate::monitor::channel::ChannelError;
use crate::monitor::process::MonitorError;
use crate::network::NetworkError;
use crate::sandbox::SandboxError;

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// no such container
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// the id is taken
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// an id that cannot be one
    #[error("invalid container ID format: {0:?} (1 to 255 of [a-zA-Z0-9_+.-], not . or ..)")]
    InvalidId(String),
    /// nothing runs that a signal, or another operation, could be for
    #[error("container not running")]
    NotRunning,
    /// `pause` of one that is paused
    #[error("container already paused")]
    AlreadyPaused,
    /// `resume` of one that is not
    #[error("container not paused")]
    NotPaused,
    /// the operation is not one for this state
    #[error("cannot {verb} a container that is {status}", status = .status.name())]
    WrongStatus {
        /// the operation
        verb: &'static str,
        /// the container's state
        status: Status,
    },
    /// `delete` without --force
    #[error("cannot delete container {id} that is not stopped: {status}", status = .status.name())]
    NotStopped {
        /// the container
        id: String,
        /// its state
        status: Status,
    },
    /// what was asked for on the command line makes no sense
    #[error("{0}")]
    Usage(String),
    /// `config.json`
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// `config.json` asks for what a guest cannot honour
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// a caller's hook
    #[error(transparent)]
    Hook(#[from] HookError),
    /// the sandbox
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// the agent refused
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// the keeper said why there is no process, or went without a word
    #[error("{0}")]
    Keeper(String),
    /// a further process could not be started
    #[error("exec failed")]
    Exec(#[source] Box<OciError>),
    /// between a command and its keeper
    #[error("the container's keeper could not be spoken to")]
    Channel(#[from] ChannelError),
    /// the network that was laid for the container
    #[error("the container's network cannot be joined")]
    Network(#[source] NetworkError),
    /// the namespace that was named for it
    #[error("linux.namespaces: network: {}", path.display())]
    Namespace {
        /// its path
        path: PathBuf,
        /// what is wrong with it
        #[source]
        source: NetworkError,
    },
    /// the monitor
    #[error(transparent)]
    Monitor(MonitorError),
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
    /// the host's kernel
    #[error("cannot {what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
    /// a state file that this program did not write
    #[error("the state of container {id:?} cannot be read: remove it with delete --force")]
    Record {
        /// the container
        id: String,
        /// what is wrong with it
        #[source]
        source: serde_json::Error,
    },
}

impl OciError {
    /// 255 for a further process that could not be started, 1 for everything else.
    pub fn exit_status(&self) -> u8 {
        if matches!(self, Self::Exec(_)) { 255 } else { super::FAILED }
    }
}

/// A failed operation on a file.
pub fn file<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> OciError {
    move |source| OciError::File { what, path: path.to_owned(), source: source.into() }
}

/// A failed operation of the host's kernel.
pub fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> OciError {
    move |source| OciError::Host { what, source: source.into() }
}
