//! How a sandbox tells that its agent is ready: the agent connects out, the monitor carries that
//! to `<vsock socket>_<port>`, where the sandbox's keeper listens.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::frame;
use ampoule_protocol::message::Hello;
use ampoule_protocol::{READY_PORT, VERSION};

use super::client::ClientError;
use super::deadline::Timed;
use super::events::Events;

/// How long the agent may take for its hello.
const HELLO_TIME: Duration = Duration::from_secs(30);

/// Listens for an agent's connection.
#[derive(Debug)]
pub struct ReadyListener {
    listener: UnixListener,
    path: PathBuf,
}

/// A ready agent.
#[derive(Debug)]
pub struct Ready {
    /// What the agent said of its start.
    pub hello: Hello,
    /// The connection that it said it on.
    pub events: Events,
}

impl ReadyListener {
    /// Where the monitor hands over the agent's connection for the vsock socket at `vsock`.
    pub fn path(vsock: &Path) -> PathBuf {
        let mut path = vsock.as_os_str().to_owned();
        path.push(format!("_{READY_PORT}"));
        path.into()
    }

    /// Listens for the agent of the sandbox whose vsock socket will be at `vsock`.
    pub fn bind(vsock: &Path) -> io::Result<Self> {
        let path = Self::path(vsock);
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Takes the agent's connection and its hello, and listens no more: what runs in the guest later
    /// can open vsock connections too, and must find nobody here. Blocks: wait for
    /// [`ReadyListener::as_fd`] first.
    pub fn accept(self) -> Result<Ready, ClientError> {
        let (socket, _) = self.listener.accept().map_err(ClientError::Socket)?;
        let hello: Hello =
            frame::read(&mut Timed::new(&socket, HELLO_TIME)).map_err(ClientError::Frame)?;
        if hello.version != VERSION {
            return Err(ClientError::Version(hello.version));
        }
        fs::remove_file(&self.path).map_err(ClientError::Socket)?;
        Ok(Ready { hello, events: Events::new(socket) })
    }
}

impl AsFd for ReadyListener {
    /// Readable when the agent has connected.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
