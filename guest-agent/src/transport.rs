//! Listening and connecting: over vsock in a guest, over Unix sockets in a directory where there
//! is no machine around the agent.
//!
//! Containers can open vsock sockets too, and a vsock port has no owner: only connections from the
//! host are accepted.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr,
};

/// How the host is reached.
#[derive(Debug, Clone)]
pub enum Transport {
    /// virtio-vsock: the host is CID 2.
    Vsock,
    /// Sockets `guest-PORT` (the agent listens) and `host-PORT` (the host side listens) in a
    /// directory.
    Unix(PathBuf),
}

impl Transport {
    /// Listens on a port of the guest.
    pub fn listen(&self, port: u32) -> io::Result<Listener> {
        let socket = match self {
            Self::Vsock => {
                bound(AddressFamily::Vsock, &VsockAddr::new(libc::VMADDR_CID_ANY, port))?
            }
            Self::Unix(directory) => bound(
                AddressFamily::Unix,
                &UnixAddr::new(&directory.join(format!("guest-{port}")))?,
            )?,
        };
        socket::listen(&socket, Backlog::new(128)?)?;
        Ok(Listener { socket, host_only: matches!(self, Self::Vsock) })
    }

    /// Connects to a port of the host.
    pub fn connect(&self, port: u32) -> io::Result<Connection> {
        match self {
            Self::Vsock => {
                connected(AddressFamily::Vsock, &VsockAddr::new(libc::VMADDR_CID_HOST, port))
            }
            Self::Unix(directory) => connected(
                AddressFamily::Unix,
                &UnixAddr::new(&directory.join(format!("host-{port}")))?,
            ),
        }
    }
}

fn stream_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn bound(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let socket = stream_socket(family)?;
    socket::bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

fn connected(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<Connection> {
    let socket = stream_socket(family)?;
    socket::connect(socket.as_raw_fd(), address)?;
    Ok(Connection(socket.into()))
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    host_only: bool,
}

impl Listener {
    /// The next connection of the host.
    pub fn accept(&self) -> io::Result<Connection> {
        loop {
            match socket::accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                Ok(fd) => {
                    // SAFETY: accept4 returned this descriptor just now and nothing else owns it.
                    let connection = Connection(unsafe { File::from_raw_fd(fd) });
                    if !self.host_only || connection.is_from_host() {
                        return Ok(connection);
                    }
                }
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A connected stream socket.
#[derive(Debug)]
pub struct Connection(File);

impl Connection {
    fn is_from_host(&self) -> bool {
        socket::getpeername::<VsockAddr>(self.0.as_raw_fd())
            .is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST)
    }

    /// Tells the peer that no more bytes come.
    pub fn end_output(&self) {
        self.shutdown(Shutdown::Write);
    }

    /// Ends both directions, also under a thread that is blocked in one of them.
    pub fn end(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// Sends no more, and blocks until the peer does not either, or the deadline is over.
    pub fn wait_for_end(&self, deadline: Duration) {
        self.end_output();
        let deadline = PollTimeout::try_from(deadline).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not: there is nothing left to do for the connection.
        let _ = poll(&mut fds, deadline);
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails only where the peer was faster.
        let _ = socket::shutdown(self.0.as_raw_fd(), how);
    }

    /// Whether the peer sends no more, or there is no connection any more.
    pub fn is_ending(&self) -> bool {
        self.look(libc::POLLRDHUP) != 0
    }

    /// What of these events, or of an error and a hang-up, is there just now.
    fn look(&self, events: libc::c_short) -> libc::c_short {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events, revents: 0 };
        // SAFETY: the pointer and the count are those of one live struct. It does not block.
        unsafe { libc::poll(&raw mut fd, 1, 0) };
        fd.revents
    }

    /// Whether there is no connection any more. A peer that only sends no more may still take
    /// bytes.
    pub fn is_gone(&self) -> bool {
        self.look(0) & (libc::POLLERR | libc::POLLHUP) != 0 || !self.takes_bytes()
    }

    /// Whether the peer still takes bytes. An empty send does no more than ask.
    pub fn takes_bytes(&self) -> bool {
        socket::send(self.0.as_raw_fd(), &[], socket::MsgFlags::MSG_NOSIGNAL).is_ok()
    }

    /// Blocks until something can be read from `other`; false where the peer is gone first.
    pub fn outlives(&self, other: BorrowedFd<'_>) -> nix::Result<bool> {
        let mut events = libc::POLLRDHUP;
        loop {
            match poll_all([(other, libc::POLLIN), (self.as_fd(), events)]) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
                Ok([0, _]) if self.is_gone() => return Ok(false),
                // It has said all that it had to say, and waits.
                Ok([0, _]) => events = 0,
                Ok(_) => return Ok(true),
            }
        }
    }
}

/// Blocks until something has happened, and says what. nix has no name for `POLLRDHUP`.
pub fn poll_all<const N: usize>(
    watched: [(BorrowedFd<'_>, libc::c_short); N],
) -> nix::Result<[libc::c_short; N]> {
    let mut fds =
        watched.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    // SAFETY: the pointer and the count are those of one live array.
    let result = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, -1) };
    Errno::result(result)?;
    Ok(fds.map(|fd| fd.revents))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for &Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for &Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
