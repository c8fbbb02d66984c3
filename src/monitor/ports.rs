//! Connections to ports of the host that a guest asks for. The monitor can open no socket: whoever
//! keeps it connects in its place, and hands it the connection.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use crate::vmm::devices::virtio::vsock::connect_to_port;
use crate::vmm::exit::lock;
use crate::vmm::host::HostPorts;

/// How long the device waits for a connection. Whoever keeps the monitor has a thread for nothing
/// else; this bounds what a stopped one can hold up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper says to a port's number: with success comes the connection.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    port: u32,
    /// Error number, where there is no connection.
    failure: Option<i32>,
}

/// Connects to the sockets `<path>_<port>`, or to that of one port alone, for a monitor that has the
/// other end of what this returns; until that is closed.
pub fn serve(path: PathBuf, only: Option<u32>) -> io::Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let theirs = Channel::from(theirs);
    theirs.set_patience(PATIENCE)?;
    let connect = move |port| match only {
        Some(only) if only != port => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
        _ => connect_to_port(&path, port),
    };
    thread::Builder::new().name("ports".into()).spawn(move || answer(&ours, connect))?;
    Ok(theirs.into())
}

/// What is not a port, or an answer that is not taken, is the end: of a monitor, or of one that has
/// gone astray.
fn answer(channel: &Channel, connect: impl Fn(u32) -> io::Result<UnixStream>) {
    use std::os::fd::AsFd;
    while let Ok(Some(port)) = channel.receive::<u32>() {
        let sent = match connect(port) {
            Ok(stream) => channel.send_with(&Answer { port, failure: None }, &[stream.as_fd()]),
            Err(error) => {
                let failure = Some(error.raw_os_error().unwrap_or(libc::EIO));
                channel.send(&Answer { port, failure })
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The monitor's end.
#[derive(Debug)]
pub struct Ports(Mutex<Channel>);

impl From<OwnedFd> for Ports {
    fn from(socket: OwnedFd) -> Self {
        Self(Mutex::new(Channel::from(socket)))
    }
}

impl HostPorts for Ports {
    fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let refused = || io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let channel = lock(&self.0);
        channel.send(&port).map_err(io::Error::other)?;
        let answer = channel.receive_with::<Answer>(1).map_err(io::Error::other)?;
        let (answer, streams) = answer.ok_or_else(refused)?;
        // One that came too late for an earlier request is none of this one's.
        if answer.port != port {
            return Err(refused());
        }
        match (answer.failure, streams.into_iter().next()) {
            (None, Some(stream)) => Ok(UnixStream::from(stream)),
            (failure, _) => Err(failure.map_or_else(refused, io::Error::from_raw_os_error)),
        }
    }
}

/// Refuses every connection.
#[derive(Debug)]
pub struct Closed;

impl HostPorts for Closed {
    fn connect(&self, _: u32) -> io::Result<UnixStream> {
        Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_keeper_connects_and_the_monitor_has_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.sock");
        let listener = UnixListener::bind(dir.path().join("v.sock_52")).unwrap();
        let ports = Ports::from(serve(path, None).unwrap());
        let mut stream = ports.connect(52).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                read => break assert_eq!(read.unwrap(), 1),
            }
        }
        let refused = ports.connect(53).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn all_ports_but_one_can_be_closed() {
        let dir = tempfile::tempdir().unwrap();
        let _a = UnixListener::bind(dir.path().join("v_1")).unwrap();
        let _b = UnixListener::bind(dir.path().join("v_2")).unwrap();
        let ports = Ports::from(serve(dir.path().join("v"), Some(2)).unwrap());
        assert_eq!(ports.connect(1).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        ports.connect(2).unwrap();
    }
}
