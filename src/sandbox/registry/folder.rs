//! A sandbox's folder, and what is in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::super::container::CONTAINER;
use super::super::state::State;

/// Where a container is, for whoever asks its agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InGuest {
    /// The Unix socket behind which the guest's vsock ports are.
    pub vsock: PathBuf,
    /// The container's name in the guest.
    pub container: String,
}

/// A sandbox's folder, and that of the container in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// While it runs: what a reboot takes.
    pub(in super::super) path: PathBuf,
    /// What lasts of its container; nothing is there for a sandbox without a name.
    pub(in super::super) record: PathBuf,
}

impl Folder {
    /// The Unix socket behind which the guest's vsock ports are.
    pub fn vsock(&self) -> PathBuf {
        self.path.join("vsock.sock")
    }

    /// Where the agent is asked for the container with this state, and what that calls it.
    pub fn in_guest(&self, state: &State) -> InGuest {
        match &state.guest {
            None => InGuest { vsock: self.vsock(), container: CONTAINER.to_owned() },
            Some(guest) => {
                let short = guest.sandbox.get(..12).unwrap_or(&guest.sandbox);
                let host = Self { path: self.path.with_file_name(short), record: PathBuf::new() };
                InGuest { vsock: host.vsock(), container: guest.container.clone() }
            }
        }
    }

    /// The socket on which the monitor takes requests.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// What is told of a sandbox that has no state file.
    pub fn about(&self) -> PathBuf {
        self.path.join("about.json")
    }

    /// The socket at which its metrics are read, where its keeper offers one.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.sock")
    }

    /// The socket at which its keeper is asked, where it keeps a container.
    pub fn keeper(&self) -> PathBuf {
        self.path.join("keeper.sock")
    }

    /// Id of the container; none for a sandbox without a name.
    pub(super) fn id(&self) -> Option<String> {
        let name = self.record.file_name()?.to_str()?;
        super::is_id(name).then(|| name.to_owned())
    }

    /// Its name, the beginning of the sandbox's id.
    pub fn short_id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The state file of its container.
    pub fn state(&self) -> PathBuf {
        self.record.join("state.json")
    }

    /// What lasts of its container.
    pub fn container(&self) -> &Path {
        &self.record
    }

    /// The log of its container's output.
    pub fn log(&self) -> PathBuf {
        self.record.join("log.json")
    }

    /// Removes all sockets; a folder without them is the same.
    pub fn remove_sockets(&self) {
        self.remove_guest_sockets();
        for socket in [self.metrics(), self.keeper()] {
            let _ = fs::remove_file(socket);
        }
    }

    /// Removes the sockets of an ended guest; its keeper may go on.
    pub fn remove_guest_sockets(&self) {
        let vsock = self.vsock();
        let ready = crate::agent::ReadyListener::path(&vsock);
        for socket in [ready, vsock, self.control()] {
            let _ = fs::remove_file(socket);
        }
    }

    /// Is there while a container that does not run is kept for its files alone.
    pub fn copied(&self) -> PathBuf {
        self.path.join("copied")
    }

    /// The file that its keeper holds locked.
    pub(super) fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Whether a keeper holds the folder.
    pub fn is_kept(&self) -> bool {
        match File::open(self.lock()) {
            // Whatever cannot be told from a keeper counts as one: what it keeps is not cleared.
            Ok(lock) => Flock::lock(lock, FlockArg::LockSharedNonblock).is_err(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}
