//! Connections to a pod's loopback interface, as containerd makes them in the pod's network namespace on
//! the host to forward a port: there is nobody there, whoever serves is in the guest. One socket takes
//! them all, and each is carried to the same port in there.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ampoule_protocol::message::Request;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

use crate::agent::{Client, EXCHANGE_TIME};
use crate::network::lookup::{self, Lookup};
use crate::report::chain;

/// Most connections at a time; further ones are closed at once.
const MOST: usize = 128;

/// Stack of a thread that carries bytes.
const STACK: usize = 128 << 10;

/// Ports are forwarded for as long as this lives.
#[derive(Debug)]
pub struct Forward {
    _lookup: Lookup,
    /// Its end is seen by the thread that accepts.
    _open: OwnedFd,
}

impl Forward {
    /// Forwards the ports of a network namespace to the guest behind `vsock`.
    ///
    /// # Errors
    /// The host's kernel cannot do it (it takes Linux 5.9), or not for this caller.
    pub fn start(namespace: &Path, vsock: &Path) -> io::Result<Self> {
        let namespace = File::open(namespace)?;
        let listener = listen(&namespace)?;
        let lookup = lookup::take_all(namespace.as_fd(), listener.as_fd())?;
        let (closed, open) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let vsock = vsock.to_owned();
        let thread = thread::Builder::new().name("forward".into()).stack_size(STACK);
        thread.spawn(move || accept(&listener, &closed, &vsock))?;
        Ok(Self { _lookup: lookup, _open: open })
    }
}

/// A socket of that namespace, for both families where it has both.
fn listen(namespace: &File) -> io::Result<TcpListener> {
    let listen = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
    };
    let listener = thread::scope(|scope| scope.spawn(listen).join());
    listener.unwrap_or_else(|_| Err(io::Error::other("the thread failed")))
}

fn accept(listener: &TcpListener, closed: &OwnedFd, vsock: &Path) {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = [
            PollFd::new(closed.as_fd(), PollFlags::empty()),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Ok(_) if fds[0].any() != Some(true) => {}
            _ => return,
        }
        let Ok((client, _)) = listener.accept() else { continue };
        if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
            busy.fetch_sub(1, Ordering::Relaxed);
            log::warn!("more than {MOST} forwarded connections at a time: one was refused");
            continue;
        }
        let (vsock, counted) = (vsock.to_owned(), Arc::clone(&busy));
        let thread = thread::Builder::new().name("forwarded".into()).stack_size(STACK);
        let started = thread.spawn(move || {
            carry(&client, vsock);
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn carry(client: &TcpStream, vsock: PathBuf) {
    let connected = || -> Result<UnixStream, Box<dyn std::error::Error>> {
        // The port that it was for: not that of the socket which has taken it.
        let port = client.local_addr()?.port();
        let mut agent = Client::open(&vsock, EXCHANGE_TIME)?;
        agent.call(&Request::Forward { port })?;
        Ok(agent.into_stream()?)
    };
    let guest = match connected() {
        Ok(guest) => guest,
        Err(error) => return log::debug!("a port is not forwarded: {}", chain(&*error)),
    };
    thread::scope(|scope| {
        let back = || {
            let _ = io::copy(&mut &guest, &mut &*client);
            let _ = client.shutdown(Shutdown::Write);
        };
        let thread = thread::Builder::new().name("forwarded".into()).stack_size(STACK);
        if thread.spawn_scoped(scope, back).is_ok() {
            let _ = io::copy(&mut &*client, &mut &guest);
            let _ = guest.shutdown(Shutdown::Write);
        }
    });
}
