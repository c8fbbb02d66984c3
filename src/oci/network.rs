//! A container's network: what callers lay in the namespace of its process on the host is the guest's.
//!
//! That namespace is a new one, which callers find at `/proc/PID/ns/net`, or one that the container's
//! `config.json` names. It is looked at when the container is created, after the hooks that may lay a
//! network, and once more before its program starts: some callers come between the two.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::frame;
use ampoule_protocol::message::NetworkNamespace;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use super::error::{OciError, file, host};
use super::record::Record;
use crate::agent::EXCHANGE_TIME;
use crate::network::{self, Interface, Joined};
use crate::report::chain;
use crate::sandbox::CONTAINER;
use crate::sandbox::launch::Machine;

/// How long a command waits for its container's keeper, which may have to wait for the guest.
const ANSWER_TIME: Duration = EXCHANGE_TIME.saturating_mul(2);

/// How long a client may take to read its answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);

/// How long the monitor of a killed keeper may take to let go of its taps.
const LET_GO_TIME: Duration = Duration::from_secs(5);

/// The network of a container, as its keeper has it. Dropped, all is undone on the host.
#[derive(Debug)]
pub struct Network {
    joined: Joined,
    /// Those that the guest does not have yet.
    waiting: Vec<Interface>,
}

/// What a keeper answers who asks it to look at the namespace once more.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done { warnings: Vec<String> },
    Failed { message: String },
}

impl Network {
    /// Joins what there is in the namespace of this process's main thread.
    pub fn join() -> Result<Self, OciError> {
        let path = Path::new("/proc/self/ns/net");
        let namespace = File::open(path).map_err(file("open", path))?;
        let (joined, waiting) = network::join(namespace.as_fd()).map_err(OciError::Network)?;
        Ok(Self { joined, waiting })
    }

    /// How many interfaces there are.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the container gets the interface that its guest may have made ready.
    pub fn has_first_interface(&self) -> bool {
        self.waiting.iter().any(|interface| interface.guest.is_first())
    }

    /// Gives the guest what it does not have yet. Its container is there, and does not run yet.
    pub fn give(&mut self, machine: &mut Machine) -> Result<(), OciError> {
        let namespace = NetworkNamespace::Container(CONTAINER.to_owned());
        Ok(machine.give(namespace, std::mem::take(&mut self.waiting))?)
    }

    /// What of the namespace the guest does not get, and why.
    pub fn warnings(&self) -> Vec<String> {
        self.joined.left_out().iter().map(|text| format!("{text}: the guest lacks it")).collect()
    }

    /// Looks at the namespace once more, for a client of the keeper, and answers it.
    pub fn serve(&mut self, listener: &Listener, machine: &mut Machine) {
        let Ok((client, _)) = listener.0.accept() else { return };
        let looked = self.joined.rescan().map_err(OciError::Network).and_then(|new| {
            self.waiting = new;
            self.give(machine)
        });
        let answer = match looked {
            Ok(()) => Answer::Done { warnings: self.warnings() },
            Err(error) => Answer::Failed { message: chain(&error) },
        };
        // A client that does not wait for it has given up.
        let _ = client.set_nonblocking(false);
        let _ = client.set_write_timeout(Some(CLIENT_TIME));
        let _ = frame::write(&mut &client, &answer);
    }

    /// Undoes it all: the guest has ended.
    pub fn leave(self) -> Result<(), OciError> {
        self.joined.leave().map_err(OciError::Network)
    }
}

/// Where a keeper is asked to look at its container's network once more.
#[derive(Debug)]
pub struct Listener(UnixListener);

impl Listener {
    /// In the sandbox's folder, with which it goes.
    pub fn new(vsock: &Path) -> Result<Self, OciError> {
        let listener = UnixListener::bind(socket(vsock));
        let listener = listener.and_then(|it| it.set_nonblocking(true).map(|()| it));
        listener.map(Self).map_err(host("listen for the container's commands"))
    }
}

impl AsFd for Listener {
    /// Readable when somebody asks.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A container's own socket, beside that of its guest.
fn socket(vsock: &Path) -> PathBuf {
    vsock.with_file_name("network.sock")
}

/// Asks the keeper of a container to look at its network once more: what the guest does not get of it.
pub fn look_again(record: &Record) -> Result<Vec<String>, OciError> {
    let client = match UnixStream::connect(socket(&record.vsock)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(OciError::NotRunning);
        }
        client => client.map_err(host("reach the container's keeper"))?,
    };
    client.set_read_timeout(Some(ANSWER_TIME)).map_err(host("reach the container's keeper"))?;
    let answer: Answer = frame::read(&mut &client)
        .map_err(io::Error::other)
        .map_err(host("hear from the container's keeper"))?;
    match answer {
        Answer::Done { warnings } => Ok(warnings),
        Answer::Failed { message } => Err(OciError::Keeper(message)),
    }
}

/// The network namespace that a container is to join; none where it has a new one.
pub fn named(spec: &Spec) -> Option<&Path> {
    let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    let mut named = named.unwrap_or_default().iter();
    let network = named.find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?;
    network.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// Clears away what a keeper that was killed has left in a namespace that was there before it. One that
/// is gone has taken everything with it.
pub fn clear(spec: &Spec) -> Result<(), OciError> {
    let Some(path) = named(spec) else { return Ok(()) };
    let namespace = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(file("open the network namespace", path))?,
    };
    if network::check(namespace.as_fd()).is_err() {
        // No container was made of it.
        return Ok(());
    }
    network::clear(namespace.as_fd(), LET_GO_TIME).map_err(OciError::Network)
}
