//! Why a sandbox, or what was asked of it, failed.

use std::io;

use ampoule_protocol::message::ErrorKind;
use nix::sys::signal::Signal;

use super::archive::ArchiveError;
use super::config::ConfigError;
use super::detach::DetachError;
use super::guest::GuestFilesError;
use super::join::JoinError;
use super::layer::LayerError;
use super::limits::LimitError;
use super::mounts::MountError;
use super::network::AttachError;
use super::record::RecordError;
use super::registry::RegistryError;
use super::shares::SharedTreeError;
use super::spec::SpecError;
use super::state::{StateError, Status};
use super::streams::StreamError;
use super::template::TemplateError;
use crate::agent::ClientError;
use crate::image::{StoreError, VerifyError};
use crate::monitor::channel::ChannelError;
use crate::monitor::spawn::SpawnError;

/// Why a sandbox, or what was asked of it, failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each is its message
pub enum SandboxError {
    #[error(transparent)]
    Image(#[from] StoreError),
    #[error(transparent)]
    ImageRefused(#[from] VerifyError),
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error(transparent)]
    Streams(#[from] StreamError),
    #[error(transparent)]
    Shares(#[from] SharedTreeError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Network(#[from] AttachError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The monitor could not make the machine; its own words.
    #[error("cannot start the sandbox: {0}")]
    Machine(String),
    #[error("cannot make a template")]
    NoTemplate(#[from] TemplateError),
    /// The monitor could not restore the template; its own words.
    #[error("cannot restore the template: {0}")]
    Template(String),
    /// The monitor does not do what it was asked; its own words.
    #[error("the sandbox's monitor refuses: {0}")]
    Refused(String),
    /// A container's keeper does not do what it was asked; its own words.
    #[error("{0}")]
    KeeperRefused(String),
    /// An interface that was joined.
    #[error("the guest cannot be given interface {name}")]
    Interface {
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: Box<SandboxError>,
    },
    #[error(transparent)]
    Detach(#[from] Box<DetachError>),
    /// The machine ended under the container.
    #[error("the sandbox died: {reason}{}", console_part(.console))]
    Died {
        /// How.
        reason: String,
        /// The last of the guest's console.
        console: String,
    },
    #[error(
        "the guest's agent was not ready within {0} seconds: the guest hangs, or KVM is too slow \
         here for one (ampoule doctor tells)"
    )]
    NotReady(u64),
    #[error("interrupted by {0} while the sandbox was being started")]
    Interrupted(Signal),
    #[error("container {name} is not running (it is {})", words(.status))]
    NotRunning { name: String, status: Status },
    #[error("files of container {0} are being copied: try again when that has ended")]
    Copied(String),
    #[error("container {name} cannot be forked: {reason}")]
    NotForked { name: String, reason: &'static str },
    #[error("container {0} is running: stop it first, or remove it with --force")]
    Running(String),
    #[error("container {0} is paused: unpause it first")]
    Paused(String),
    #[error("container {0} is not paused")]
    NotPaused(String),
    #[error("container {0} does not end: its keeper (pid {1}) is still there")]
    DoesNotEnd(String, i32),
    #[error("{what}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl From<RecordError> for SandboxError {
    fn from(error: RecordError) -> Self {
        Self::Registry(error.into())
    }
}

impl SandboxError {
    /// A failed operation of the host's kernel.
    pub fn host(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// Exit status as docker's: 127 for a program that is not there, 126 for one that cannot be
    /// executed, 128 + N for an interruption, 125 for everything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Agent(ClientError::Agent(error)) => match error.kind {
                ErrorKind::CommandNotFound => 127,
                ErrorKind::CommandNotExecutable => 126,
                _ => 125,
            },
            Self::Detach(error) => error.exit_status(),
            // As a program's that was killed: that is what has become of it.
            Self::Join(JoinError::HostEnded(_)) => 137,
            Self::Interrupted(signal) => u8::try_from(128 + *signal as i32).unwrap_or(125),
            _ => 125,
        }
    }
}

fn words(status: &Status) -> &'static str {
    match status {
        Status::Created => "not started yet",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "about to be started again",
        Status::Exited => "exited",
    }
}

/// With which a guest's kernel begins to tell what went wrong in it.
const OOPS: [&str; 5] =
    ["BUG: ", "Oops", "general protection fault", "kernel BUG at", "Unable to handle"];

/// Most lines of that: what comes first says most.
const OOPS_LINES: usize = 48;

/// The console's last lines, indented, where there are any; where its kernel has told what went wrong, that.
fn console_part(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    let oops = lines.iter().position(|line| OOPS.iter().any(|word| line.contains(word)));
    let last = match oops {
        Some(first) => &lines[first..lines.len().min(first + OOPS_LINES)],
        None => &lines[lines.len().saturating_sub(12)..],
    };
    last.iter().map(|line| format!("\n  | {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ampoule_protocol::message::AgentError;

    #[test]
    fn exit_statuses_are_dockers() {
        let agent = |kind| {
            SandboxError::Agent(ClientError::Agent(AgentError::new(kind, "x"))).exit_status()
        };
        assert_eq!(agent(ErrorKind::CommandNotFound), 127);
        assert_eq!(agent(ErrorKind::CommandNotExecutable), 126);
        assert_eq!(agent(ErrorKind::Internal), 125);
        assert_eq!(SandboxError::Interrupted(Signal::SIGTERM).exit_status(), 143);
        assert_eq!(SandboxError::Running("x".into()).exit_status(), 125);
    }

    #[test]
    fn a_kernels_own_words_are_shown_from_their_beginning() {
        let mut console: String = (0..20).map(|n| format!("before {n}\n")).collect();
        console.push_str("[ 6.1] Oops: general protection fault\n");
        console.extend((0..60).map(|n| format!("trace {n}\n")));
        let text = SandboxError::Died { reason: "it panicked".into(), console }.to_string();
        assert!(text.starts_with("the sandbox died: it panicked\n  | [ 6.1] Oops"), "{text}");
        assert!(text.ends_with("trace 46"), "{text}");
    }

    #[test]
    fn a_dead_guest_shows_its_last_lines() {
        let console = (0..20).map(|n| format!("line {n}\n")).collect();
        let text = SandboxError::Died { reason: "it panicked".into(), console }.to_string();
        assert!(text.starts_with("the sandbox died: it panicked\n  | line 8\n"), "{text}");
    }
}
