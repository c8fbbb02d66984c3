//! The Unix sockets of the device: the one that clients connect to, and those of the host's ports.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::error::VsockError;

/// Longest path of a socket in bytes: an address has 108, its end included.
const MAX_ADDRESS: usize = 107;

/// Bytes of the longest suffix: `_4294967295`.
const MAX_SUFFIX: usize = 11;

/// A listening socket whose file goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<UnixListener>,
    path: PathBuf,
    /// Device and inode of the socket's file, where it was made here: what is at the path later may
    /// be another's.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, for this user alone. The file of a socket that nobody listens on any
    /// more is replaced.
    pub fn bind(path: &Path) -> Result<Self, VsockError> {
        let max = MAX_ADDRESS - MAX_SUFFIX;
        if path.as_os_str().len() > max {
            return Err(VsockError::PathTooLong { path: path.to_path_buf(), max });
        }
        let failed = |what| {
            move |source: io::Error| VsockError::Socket { path: path.to_path_buf(), what, source }
        };
        let socket = unconnected().map_err(failed("make a socket"))?;
        // The file gets the socket's mode: there is no moment in which others may connect.
        fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| failed("set the mode")(errno.into()))?;
        let address = UnixAddr::new(path).map_err(|errno| failed("take the path")(errno.into()))?;
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(socket.as_raw_fd(), &address)
            }
            bound => bound,
        }
        .map_err(|errno| failed("bind")(errno.into()))?;
        let file = identity(path).map_err(failed("look at the file"))?;
        // From here on the file is removed if anything fails.
        let socket = Arc::new(UnixListener::from(socket));
        let listener = Self { socket, path: path.to_path_buf(), file: Some(file) };
        listen(&listener.socket, Backlog::MAXCONN)
            .map_err(|errno| failed("listen")(errno.into()))?;
        Ok(listener)
    }

    /// Takes over a socket that listens at `path` already; its file stays whoever's made it.
    pub fn take_over(socket: Arc<UnixListener>, path: &Path) -> Result<Self, VsockError> {
        let failed = |source| VsockError::Socket {
            path: path.to_path_buf(),
            what: "take over the socket",
            source,
        };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, path: path.to_path_buf(), file: None })
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
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let address = UnixAddr::new(Path::new(&path))?;
        let socket = unconnected()?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(UnixStream::from(socket))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(file) = self.file else { return };
        if identity(&self.path).is_ok_and(|there| there == file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("vsock socket {}: cannot be removed: {error}", self.path.display());
        }
    }
}

fn unconnected() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes the file of a socket that nobody listens on.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), VsockError> {
    let failed = |what| {
        move |source: io::Error| VsockError::Socket { path: path.to_path_buf(), what, source }
    };
    let file = fs::symlink_metadata(path).map_err(failed("look at the file"))?;
    if !file.file_type().is_socket() {
        return Err(VsockError::NotASocket { path: path.to_path_buf() });
    }
    let probe = unconnected().map_err(failed("make a socket"))?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("replace the file")),
        Ok(()) | Err(Errno::EAGAIN) => Err(VsockError::InUse { path: path.to_path_buf() }),
        Err(errno) => Err(failed("find out whether it is in use")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_socket_is_private_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        let listener = Listener::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        drop(UnixListener::bind(&path).unwrap());
        let _live = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(VsockError::InUse { .. })));
        assert!(path.exists());
    }

    #[test]
    fn a_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(VsockError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn anothers_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn paths_leave_room_for_a_port() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v".repeat(MAX_ADDRESS));
        assert!(matches!(Listener::bind(&path), Err(VsockError::PathTooLong { .. })));
        assert!(matches!(
            Listener::bind(&dir.path().join("none/v.sock")),
            Err(VsockError::Socket { what: "bind", .. })
        ));
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
