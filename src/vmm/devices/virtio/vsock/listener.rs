//! The Unix sockets of the device: the one that clients connect to, and those of the host's ports.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::error::VsockError;
use crate::socket_file::SocketFile;
use crate::vmm::host::HostPorts;

/// Longest path of a socket in bytes: an address has 108, its end included.
const MAX_ADDRESS: usize = 107;

/// Bytes of the longest suffix: `_4294967295`.
const MAX_SUFFIX: usize = 11;

/// A listening socket whose file goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<UnixListener>,
    path: PathBuf,
    /// Who connects to other sockets in this process's place.
    ports: Option<Arc<dyn HostPorts>>,
    /// Where the socket was made here.
    _file: Option<SocketFile>,
}

impl Listener {
    /// Listens at `path`, for this user alone. The file of a socket that nobody listens on any
    /// more is replaced.
    pub fn bind(path: &Path) -> Result<Self, VsockError> {
        let (socket, file) = listen(path)?;
        let socket = Arc::new(UnixListener::from(socket));
        Ok(Self { socket, path: path.to_path_buf(), ports: None, _file: Some(file) })
    }

    /// Takes over a socket that listens at `path` already; its file stays whoever's made it.
    /// Connections to the host's ports are made by `ports`, where that is given.
    pub fn take_over(
        socket: Arc<UnixListener>,
        path: &Path,
        ports: Option<Arc<dyn HostPorts>>,
    ) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Socket {
            path: path.to_path_buf(),
            what: "take over the socket",
            source,
        };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, path: path.to_path_buf(), ports, _file: None })
    }

    /// The next client, whose stream does not block; [`io::ErrorKind::WouldBlock`] if there is
    /// none.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects to whoever listens for the host's port `port`. Never blocks: a listener whose
    /// backlog is full refuses.
    pub fn connect_to_port(&self, port: u32) -> io::Result<UnixStream> {
        match &self.ports {
            Some(ports) => ports.connect(port),
            None => connect_to_port(&self.path, port),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Listens at `path`, for this user alone, where there is room for the names of ports.
pub fn listen(path: &Path) -> Result<(OwnedFd, SocketFile), VsockError> {
    let max = MAX_ADDRESS - MAX_SUFFIX;
    if path.as_os_str().len() > max {
        return Err(VsockError::PathTooLong { path: path.to_path_buf(), max });
    }
    Ok(SocketFile::listen(path, SockType::Stream)?)
}

/// Connects to whoever listens for the host's port `port` beside the socket at `path`. Never blocks.
pub fn connect_to_port(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut path = OsString::from(path);
    path.push(format!("_{port}"));
    let address = UnixAddr::new(Path::new(&path))?;
    let socket = unconnected()?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

fn unconnected() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_leave_room_for_a_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v".repeat(MAX_ADDRESS));
        assert!(matches!(Listener::bind(&path), Err(VsockError::PathTooLong { .. })));
    }

    #[test]
    fn ports_are_sockets_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        let listener = Listener::bind(&path).unwrap();
        let refused = listener.connect_to_port(52).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        let _port = UnixListener::bind(dir.path().join("v.sock_52")).unwrap();
        listener.connect_to_port(52).unwrap();
    }
}
