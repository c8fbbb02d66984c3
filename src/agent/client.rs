//! Requests to an agent, and its replies.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::{AgentError, ExitStatus, Hello, Reply, Request};
use ampoule_protocol::{RPC_PORT, VERSION};
use nix::sys::socket::{MsgFlags, recv};

use super::connect::{Asked, ConnectError, ask};
use super::deadline::Timed;
use super::events::Events;
use super::words::cut;

/// How long an exchange with an agent may take, but for the wait for a process's end. Generous: a
/// container's set-up on a busy host with emulated hardware takes seconds.
pub const EXCHANGE_TIME: Duration = Duration::from_secs(60);

/// Why a request got no answer to its liking.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// no connection
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// the connection ended or carried something else than frames
    #[error("the connection to the agent failed")]
    Frame(#[source] FrameError),
    /// its options could not be set
    #[error("the connection to the agent could not be set up")]
    Socket(#[source] io::Error),
    /// the agent speaks another version of the protocol
    #[error(
        "the guest's agent speaks protocol version {0}, this ampoule {VERSION}: build both from \
         the same source (tools/build-guest)"
    )]
    Version(u32),
    /// the agent refused, and said why
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// a reply that does not belong to its request
    #[error("the agent answered something else than what it was asked")]
    UnexpectedReply,
}

/// One RPC connection to the agent of a sandbox.
///
/// Replies come in the order of the requests; [`Client::send`] and [`Client::receive`] may be used
/// apart to have several under way.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    /// For each message.
    time: Duration,
}

impl Client {
    /// Connects through the sandbox's vsock socket at `path` and agrees on the protocol. Each message
    /// of the conversation, and the connecting, may take this long.
    pub fn open(path: &Path, time: Duration) -> Result<Self, ClientError> {
        Self::begin(path, time)?.finish()
    }

    /// Asks for such a connection. Requests can be sent at once; they are looked at when the guest
    /// gets to it.
    pub fn begin(path: &Path, time: Duration) -> Result<Opening, ClientError> {
        let asked = ask(path, RPC_PORT, time)?;
        let hello = Hello { version: VERSION, entered_us: 0, ready_us: 0 };
        let mut opening = Opening { asked, time };
        opening.write(&hello)?;
        Ok(opening)
    }

    /// The same connection, on which the agent was asked for its events.
    pub fn into_events(self) -> Events {
        Events::new(self.socket)
    }

    /// The same connection, which carries other bytes from here on.
    pub fn into_stream(self) -> std::io::Result<UnixStream> {
        self.socket.set_read_timeout(None)?;
        self.socket.set_write_timeout(None)?;
        Ok(self.socket)
    }

    /// What the connection carries between two messages. Each read and write of it may take as long as a message.
    pub fn stream(&self) -> Result<&UnixStream, ClientError> {
        let time = Some(self.time);
        let set = self.socket.set_read_timeout(time);
        set.and_then(|()| self.socket.set_write_timeout(time)).map_err(ClientError::Socket)?;
        Ok(&self.socket)
    }

    /// Sends a request without waiting for its reply.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.write(request)
    }

    /// Takes the next reply; an error of the agent is [`ClientError::Agent`].
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        match self.read()? {
            Reply::Error(AgentError { kind, message }) => {
                Err(AgentError { kind, message: cut(message) }.into())
            }
            reply => Ok(reply),
        }
    }

    /// Sends a request, and takes its reply.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// A request that is answered with [`Reply::Done`].
    pub fn call(&mut self, request: &Request) -> Result<(), ClientError> {
        self.send(request)?;
        self.receive_done()
    }

    /// Takes a [`Reply::Done`].
    pub fn receive_done(&mut self) -> Result<(), ClientError> {
        match self.receive()? {
            Reply::Done => Ok(()),
            _ => Err(ClientError::UnexpectedReply),
        }
    }

    /// Takes a [`Reply::Created`]: the guest's pid of the process.
    pub fn receive_created(&mut self) -> Result<i32, ClientError> {
        match self.receive()? {
            Reply::Created { pid } => Ok(pid),
            _ => Err(ClientError::UnexpectedReply),
        }
    }

    /// Tells the agent that no more requests come; it then closes the connection.
    pub fn end_requests(&self) -> Result<(), ClientError> {
        self.socket.shutdown(Shutdown::Write).map_err(ClientError::Socket)
    }

    /// Throws away the replies that are there, without waiting for any.
    pub fn discard_replies(&mut self) {
        let mut bytes = [0u8; 512];
        let fd = self.socket.as_raw_fd();
        while recv(fd, &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0) {}
    }

    /// Takes the [`Reply::Exited`] to a [`Request::Wait`], its code brought into 0 to 255. It may be
    /// long in coming: wait for [`Client::as_fd`] first.
    pub fn receive_exited(&mut self) -> Result<ExitStatus, ClientError> {
        match self.receive()? {
            Reply::Exited(status) => Ok(ExitStatus { code: status.code & 0xff, ..status }),
            _ => Err(ClientError::UnexpectedReply),
        }
    }

    fn write<T: serde::Serialize>(&mut self, message: &T) -> Result<(), ClientError> {
        frame::write(&mut Timed::new(&self.socket, self.time), message).map_err(ClientError::Frame)
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        frame::read(&mut Timed::new(&self.socket, self.time)).map_err(ClientError::Frame)
    }
}

/// A connection whose agent has not answered yet.
#[derive(Debug)]
pub struct Opening {
    asked: Asked,
    time: Duration,
}

impl Opening {
    /// Sends a request ahead.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        self.write(request)
    }

    fn write<T: serde::Serialize>(&mut self, message: &T) -> Result<(), ClientError> {
        frame::write(&mut Timed::new(&self.asked.socket, self.time), message)
            .map_err(ClientError::Frame)
    }

    /// Waits for the agent's greeting.
    pub fn finish(self) -> Result<Client, ClientError> {
        let mut client = Client { socket: self.asked.finish(self.time)?, time: self.time };
        let hello: Hello = client.read()?;
        if hello.version != VERSION {
            return Err(ClientError::Version(hello.version));
        }
        Ok(client)
    }
}

impl AsFd for Opening {
    /// Readable when the agent's greeting, or the connection's end, is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.asked.socket.as_fd()
    }
}

impl AsFd for Client {
    /// Readable when a reply, or the connection's end, is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ampoule_protocol::message::{ErrorKind, ProcessId};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// An agent (and monitor) that says `bytes` after the handshake, whatever it is asked.
    fn agent_that_says(bytes: Vec<u8>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0u8; 13];
            socket.read_exact(&mut request).unwrap();
            socket.write_all(b"OK 1\n").unwrap();
            socket.write_all(&bytes).unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = socket.read_to_end(&mut Vec::new());
        });
        (dir, path)
    }

    fn hello(version: u32) -> Vec<u8> {
        frame::encode(&Hello { version, entered_us: 1, ready_us: 2 }).unwrap()
    }

    #[test]
    fn another_version_is_refused() {
        let (_dir, path) = agent_that_says(hello(VERSION + 1));
        assert!(
            matches!(Client::open(&path, EXCHANGE_TIME), Err(ClientError::Version(v)) if v == VERSION + 1)
        );
    }

    #[test]
    fn errors_keep_their_kind() {
        let mut bytes = hello(VERSION);
        let error = AgentError::new(ErrorKind::CommandNotFound, "no such program");
        bytes.extend(frame::encode(&Reply::Error(error)).unwrap());
        let (_dir, path) = agent_that_says(bytes);
        let mut client = Client::open(&path, EXCHANGE_TIME).unwrap();
        let failed = client.call(&Request::Shutdown).unwrap_err();
        assert!(matches!(failed, ClientError::Agent(e) if e.kind == ErrorKind::CommandNotFound));
    }

    #[test]
    fn lies_are_errors() {
        let mut oversized = hello(VERSION);
        oversized.extend(u32::MAX.to_le_bytes());
        let mut wrong = hello(VERSION);
        wrong.extend(frame::encode(&Reply::Created { pid: 1 }).unwrap());
        let cases =
            [oversized, wrong, [hello(VERSION), b"\x05\0\0\0{{{{{".to_vec()].concat(), hello(1)];
        for bytes in cases {
            let (_dir, path) = agent_that_says(bytes);
            assert!(Client::open(&path, EXCHANGE_TIME).unwrap().call(&Request::Shutdown).is_err());
        }
    }

    #[test]
    fn exit_codes_are_brought_into_range() {
        let mut bytes = hello(VERSION);
        let status = ExitStatus { code: 0x1234, oom_killed: false };
        bytes.extend(frame::encode(&Reply::Exited(status)).unwrap());
        let (_dir, path) = agent_that_says(bytes);
        let mut client = Client::open(&path, EXCHANGE_TIME).unwrap();
        client.send(&Request::Wait(ProcessId::init("c"))).unwrap();
        assert_eq!(client.receive_exited().unwrap().code, 0x34);
    }
}
