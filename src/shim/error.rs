//! Why a shim cannot do what it is asked, and the code that containerd acts on.

use std::io;
use std::path::{Path, PathBuf};

use ampoule_protocol::message::ErrorKind;
use containerd_shim::protos::ttrpc::{self, Code};

use crate::agent::ClientError;
use crate::network::NetworkError;
use crate::oci::{BundleError, OciError, TranslateError};
use crate::report::chain;
use crate::sandbox::{ConfigError, SandboxError};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// a command line that makes no sense
    #[error("{0}")]
    Usage(String),
    /// no such container or process
    #[error("{0}")]
    NotFound(String),
    /// one of that name is there
    #[error("{0}")]
    AlreadyExists(String),
    /// not in this state
    #[error("{0}")]
    WrongState(String),
    /// what a sandbox cannot honour
    #[error("{0}")]
    Unsupported(String),
    /// a part of `config.json`
    #[error(transparent)]
    Translate(#[from] TranslateError),
    /// `config.json` itself
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// the host's configuration
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// the sandbox
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// the network of the sandbox
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// a control group of the host
    #[error(transparent)]
    Oci(#[from] OciError),
    /// containerd's own protocol
    #[error(transparent)]
    Protocol(#[from] containerd_shim::Error),
    /// a file of the host
    #[error("cannot {what} {}", path.display())]
    File {
        /// what was attempted
        what: &'static str,
        /// the file
        path: PathBuf,
        /// why not
        #[source]
        source: io::Error,
    },
    /// anything else of the host
    #[error("cannot {what}")]
    Host {
        /// what was attempted
        what: &'static str,
        /// why not
        #[source]
        source: io::Error,
    },
}

impl ShimError {
    /// A container or process that is not there.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::NotFound(format!("{what} {id}: not found"))
    }

    /// What was asked for takes a sandbox, and it is there no more.
    pub fn sandbox_ended() -> Self {
        Self::WrongState("the sandbox has ended".into())
    }

    /// The code of the task API.
    pub fn code(&self) -> Code {
        match self {
            Self::Usage(_) | Self::Translate(_) | Self::Bundle(_) => Code::INVALID_ARGUMENT,
            Self::Network(NetworkError::Hosts) => Code::UNIMPLEMENTED,
            Self::NotFound(_) => Code::NOT_FOUND,
            Self::AlreadyExists(_) => Code::ALREADY_EXISTS,
            Self::WrongState(_) | Self::Config(_) => Code::FAILED_PRECONDITION,
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::Sandbox(SandboxError::Agent(ClientError::Agent(error))) => match error.kind {
                ErrorKind::NotFound => Code::NOT_FOUND,
                ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
                ErrorKind::WrongState => Code::FAILED_PRECONDITION,
                ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
                ErrorKind::Unsupported => Code::UNIMPLEMENTED,
                ErrorKind::CommandNotFound
                | ErrorKind::CommandNotExecutable
                | ErrorKind::Internal => Code::UNKNOWN,
            },
            // Its guest is gone, and with it everything that could be asked.
            Self::Sandbox(SandboxError::Died { .. }) => Code::UNAVAILABLE,
            Self::Sandbox(_) | Self::Network(_) | Self::Oci(_) | Self::Protocol(_) => Code::UNKNOWN,
            Self::File { .. } | Self::Host { .. } => Code::INTERNAL,
        }
    }
}

impl From<ClientError> for ShimError {
    fn from(error: ClientError) -> Self {
        Self::Sandbox(error.into())
    }
}

impl From<ShimError> for ttrpc::Error {
    fn from(error: ShimError) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), chain(&error)))
    }
}

/// A failed operation on a file.
pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShimError {
    let path = path.to_owned();
    move |source| ShimError::File { what, path, source }
}

/// A failed operation of the host's kernel.
pub fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ShimError {
    move |source| ShimError::Host { what, source: source.into() }
}
