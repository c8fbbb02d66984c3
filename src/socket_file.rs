//! Listening Unix sockets with a path: for this user alone, in place of a dead one's file, and with
//! a file that goes away with them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Nobody can listen at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// a running process
    #[error("socket {}: somebody listens on it already", path.display())]
    InUse {
        /// the socket
        path: PathBuf,
    },
    /// something that must not be replaced
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// the path
        path: PathBuf,
    },
    /// no permission, no such directory, …
    #[error("socket {}: cannot {what}", path.display())]
    Host {
        /// the socket
        path: PathBuf,
        /// what was attempted
        what: &'static str,
        /// why it failed
        #[source]
        source: io::Error,
    },
}

/// The file of a listening socket; dropped, it is removed, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`, for this user alone, without ever blocking. The file of a socket that
    /// nobody listens on any more is replaced.
    pub fn listen(path: &Path, kind: SockType) -> Result<(OwnedFd, Self), SocketFileError> {
        let failed = |what| failed(path, what);
        let socket = unconnected(kind).map_err(failed("make a socket"))?;
        // The file gets the socket's mode: there is no moment in which others may connect.
        fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| failed("set the mode")(errno.into()))?;
        let address = UnixAddr::new(path).map_err(|errno| failed("take the path")(errno.into()))?;
        match bind(socket.as_raw_fd(), &address) {
            Err(Errno::EADDRINUSE) => {
                remove_stale(path, &address, kind)?;
                bind(socket.as_raw_fd(), &address)
            }
            bound => bound,
        }
        .map_err(|errno| failed("bind")(errno.into()))?;
        let identity = identity(path).map_err(failed("look at the file"))?;
        // From here on the file is removed if anything fails.
        let file = Self { path: path.to_path_buf(), identity };
        listen(&socket, Backlog::MAXCONN).map_err(|errno| failed("listen")(errno.into()))?;
        Ok((socket, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("socket {}: cannot be removed: {error}", self.path.display());
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> SocketFileError {
    move |source| SocketFileError::Host { path: path.to_path_buf(), what, source }
}

fn unconnected(kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, kind, flags, None)?)
}

/// Device and inode: what is at the path later may be another's.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes the file of a socket that nobody listens on.
fn remove_stale(path: &Path, address: &UnixAddr, kind: SockType) -> Result<(), SocketFileError> {
    let failed = |what| failed(path, what);
    let file = fs::symlink_metadata(path).map_err(failed("look at the file"))?;
    if !file.file_type().is_socket() {
        return Err(SocketFileError::NotASocket { path: path.to_path_buf() });
    }
    let probe = unconnected(kind).map_err(failed("make a socket"))?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed("replace the file")),
        // The latter: somebody listens for connections of another kind.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            Err(SocketFileError::InUse { path: path.to_path_buf() })
        }
        Err(errno) => Err(failed("find out whether it is in use")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn listen(path: &Path) -> Result<(OwnedFd, SocketFile), SocketFileError> {
        SocketFile::listen(path, SockType::SeqPacket)
    }

    #[test]
    fn the_socket_is_private_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = listen(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let _live = listen(&path).unwrap();
        for kind in [SockType::SeqPacket, SockType::Stream] {
            let refused = SocketFile::listen(&path, kind);
            assert!(matches!(refused, Err(SocketFileError::InUse { .. })), "{kind:?}");
        }
        assert!(path.exists());
    }

    #[test]
    fn a_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path), Err(SocketFileError::NotASocket { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn anothers_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = listen(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_cannot_be_bound_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let missing = listen(&dir.path().join("none/socket"));
        assert!(matches!(missing, Err(SocketFileError::Host { what: "bind", .. })));
        let long = listen(&dir.path().join("s".repeat(108)));
        assert!(matches!(long, Err(SocketFileError::Host { what: "take the path", .. })));
    }
}
