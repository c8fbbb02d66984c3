use std::io;
use std::path::PathBuf;

use super::super::digest::Digest;

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// it does not answer
    #[error("cannot reach the registry {host}")]
    Connect {
        /// the registry
        host: String,
        /// why
        #[source]
        source: reqwest::Error,
    },
    /// it is not known to be who it says
    #[error(
        "the certificate of the registry {host} is not trusted: put the certificate of its authority \
         in /etc/docker/certs.d/{host}/ca.crt, or do without (--tls-verify=false)"
    )]
    Certificate {
        /// the registry
        host: String,
        /// why
        #[source]
        source: reqwest::Error,
    },
    /// the connection ended or stood still
    #[error("the connection to the registry {host} failed")]
    Cut {
        /// the registry
        host: String,
        /// why
        #[source]
        source: reqwest::Error,
    },
    /// the user may not do this, or nobody may
    #[error("the registry {host} denies access to {what}{said}: log in (ampoule login {login})")]
    Denied {
        /// the registry
        host: String,
        /// to what
        what: String,
        /// its own words, with a colon before them
        said: String,
        /// what to log in to
        login: String,
    },
    /// there is no such thing
    #[error("the registry {host} does not have {what}{said}")]
    NotFound {
        /// the registry
        host: String,
        /// what was asked for
        what: String,
        /// its own words, with a colon before them
        said: String,
    },
    /// it was asked too often, and wants to be left alone for longer than it is waited for
    #[error(
        "the registry {host} was asked too often for {what}: it wants to be asked again in {seconds} s{said}"
    )]
    Busy {
        /// the registry
        host: String,
        /// what was asked for
        what: String,
        /// how long it wants to be left alone
        seconds: u64,
        /// its own words, with a colon before them
        said: String,
    },
    /// another status than the one that was waited for
    #[error("the registry {host} answers {status} for {what}{said}")]
    Status {
        /// the registry
        host: String,
        /// status code
        status: u16,
        /// what was asked for
        what: String,
        /// its own words, with a colon before them
        said: String,
    },
    /// a document that is larger than any is
    #[error("{what} from the registry {host} is larger than {limit} bytes")]
    Large {
        /// the registry
        host: String,
        /// the document
        what: String,
        /// the bound
        limit: u64,
    },
    /// a document that is not what it should be
    #[error("{what} from the registry {host} is not valid")]
    Json {
        /// the registry
        host: String,
        /// the document
        what: String,
        /// where and why
        #[source]
        source: serde_json::Error,
    },
    /// something that no registry should say
    #[error("the registry {host} cannot be understood: {problem}")]
    Protocol {
        /// the registry
        host: String,
        /// what is wrong
        problem: String,
    },
    /// what came is not what was asked for
    #[error(
        "{what} from the registry {host} is damaged: its digest is {actual}, expected {expected}"
    )]
    Digest {
        /// the registry
        host: String,
        /// what came
        what: String,
        /// as it was asked for
        expected: Digest,
        /// as it is
        actual: Digest,
    },
    /// what came has not the size that was announced
    #[error(
        "{what} from the registry {host} has another size than the {expected} bytes of its manifest"
    )]
    Size {
        /// the registry
        host: String,
        /// what came
        what: String,
        /// as the manifest says
        expected: u64,
    },
    /// there is none for the machine
    #[error("{image} is not there for {wanted}: it is for {found}")]
    Platform {
        /// the image
        image: String,
        /// what was asked for
        wanted: String,
        /// what there is
        found: String,
    },
    /// a manifest of another kind
    #[error("{what} from the registry {host} is of the type {kind:?}, which is not an image's")]
    MediaType {
        /// the registry
        host: String,
        /// the document
        what: String,
        /// its media type
        kind: String,
    },
    /// a certificate or key of the host's that cannot be used
    #[error("cannot use the certificate or key {}", path.display())]
    OwnCertificate {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// the client cannot be made
    #[error("cannot speak TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// the configuration's name for a registry or a mirror
    #[error("{0:?} is not the address of a registry: HOST, HOST:PORT or http(s)://HOST[:PORT]")]
    Address(String),
    /// what the user has to say who he is
    #[error(transparent)]
    Login(#[from] super::logins::LoginError),
    /// the client could not be started
    #[error("cannot start the registry client")]
    Runtime(#[source] io::Error),
}

impl RegistryError {
    /// Whether to try once more may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Cut { .. } | Self::Connect { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }
}
