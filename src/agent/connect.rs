//! A connection to a port of the guest: the `CONNECT <port>\n` / `OK <port>\n` handshake over the
//! sandbox's Unix socket that Firecracker and Cloud Hypervisor speak too.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_protocol::STREAM_PORT;
use ampoule_protocol::frame::{self, FrameError};
use ampoule_protocol::message::StreamHello;
use nix::sys::socket::{MsgFlags, recv};

use super::deadline::Timed;

/// How long a guest may take to accept a connection. A live agent answers within a round trip;
/// this only bounds what a hung or hostile one can hold up.
pub const ACCEPT_TIME: Duration = Duration::from_secs(30);

/// Longest answer line: `OK ` and a u32.
const LINE_LIMIT: usize = 16;

/// Why a port of the guest could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// the monitor is not there (any more)
    #[error("cannot reach the sandbox at {}", path.display())]
    Unreachable {
        /// the vsock socket
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// nobody in the guest listens on the port
    #[error("the guest refused a connection to port {0}")]
    Refused(u32),
    /// the answer is not the handshake's
    #[error("the answer to a connection to guest port {0} is malformed")]
    Malformed(u32),
    /// the first frame could not be written
    #[error("a new connection to the guest failed")]
    Frame(#[source] FrameError),
}

/// Connects to `port` of the guest behind the vsock socket at `path`, within `time`.
pub fn connect(path: &Path, port: u32, time: Duration) -> Result<UnixStream, ConnectError> {
    let asked = ask(path, port, time)?;
    asked.finish(time)
}

/// Asks for a connection to `port` of the guest, without waiting for the answer.
pub fn ask(path: &Path, port: u32, time: Duration) -> Result<Asked, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { path: path.to_owned(), source };
    let socket = UnixStream::connect(path).map_err(unreachable)?;
    Timed::new(&socket, time)
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .map_err(unreachable)?;
    Ok(Asked { socket, path: path.to_owned(), port })
}

/// A connection that was asked for. What is written to it already, the guest gets as soon as it
/// has accepted.
#[derive(Debug)]
pub struct Asked {
    /// The connection.
    pub socket: UnixStream,
    path: PathBuf,
    port: u32,
}

impl Asked {
    /// Waits for the answer.
    pub fn finish(self, time: Duration) -> Result<UnixStream, ConnectError> {
        let Self { socket, path, port } = self;
        let unreachable = |source| ConnectError::Unreachable { path: path.clone(), source };
        read_answer(&socket, &Timed::new(&socket, time), port, unreachable)?;
        socket.set_read_timeout(None).map_err(unreachable)?;
        socket.set_write_timeout(None).map_err(unreachable)?;
        Ok(socket)
    }
}

/// Connects one stdio stream that a request names `token`.
pub fn stream(path: &Path, token: &str) -> Result<UnixStream, ConnectError> {
    let mut socket = connect(path, STREAM_PORT, ACCEPT_TIME)?;
    // A few bytes into an empty socket: this does not block.
    frame::write(&mut socket, &StreamHello { token: token.to_owned() })
        .map_err(ConnectError::Frame)?;
    Ok(socket)
}

/// Takes the answer line and not a byte more: what follows it is the guest's payload.
fn read_answer(
    socket: &UnixStream,
    timed: &Timed<'_>,
    port: u32,
    unreachable: impl Fn(io::Error) -> ConnectError,
) -> Result<(), ConnectError> {
    let fd = socket.as_raw_fd();
    let mut line = [0u8; LINE_LIMIT];
    let mut have = 0;
    while have < LINE_LIMIT {
        let left = timed.left().map_err(&unreachable)?;
        socket.set_read_timeout(Some(left)).map_err(&unreachable)?;
        let mut peeked = [0u8; LINE_LIMIT];
        let room = LINE_LIMIT - have;
        let n =
            recv(fd, &mut peeked[..room], MsgFlags::MSG_PEEK).map_err(|e| unreachable(e.into()))?;
        if n == 0 {
            return Err(ConnectError::Refused(port));
        }
        let newline = peeked[..n].iter().position(|b| *b == b'\n');
        let take = newline.map_or(n, |at| at + 1);
        let taken = recv(fd, &mut line[have..have + take], MsgFlags::empty())
            .map_err(|e| unreachable(e.into()))?;
        have += taken;
        if newline.is_some() {
            return parse_answer(&line[..have]).ok_or(ConnectError::Malformed(port)).map(drop);
        }
    }
    Err(ConnectError::Malformed(port))
}

/// The host port of an `OK <port>\n` line.
fn parse_answer(line: &[u8]) -> Option<u32> {
    std::str::from_utf8(line).ok()?.strip_prefix("OK ")?.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    fn answer_with(bytes: &'static [u8]) -> (tempfile::TempDir, Result<UnixStream, ConnectError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        let monitor = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0u8; 13];
            socket.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"CONNECT 1024\n");
            // Byte by byte: the answer may be cut anywhere, and the client may have seen enough.
            let _ = bytes.chunks(1).try_for_each(|byte| socket.write_all(byte));
        });
        let connected = connect(&path, 1024, ACCEPT_TIME);
        monitor.join().unwrap();
        (dir, connected)
    }

    #[test]
    fn payload_behind_the_answer_is_left_for_the_caller() {
        let (_dir, connected) = answer_with(b"OK 1073741824\nhello");
        let mut rest = String::new();
        connected.unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hello");
    }

    #[test]
    fn an_end_is_a_refusal_and_garbage_is_malformed() {
        assert!(matches!(answer_with(b"").1, Err(ConnectError::Refused(1024))));
        assert!(matches!(answer_with(b"NO\n").1, Err(ConnectError::Malformed(1024))));
        let endless = b"OK 00000000000000000000000000000000000000000001\n";
        assert!(matches!(answer_with(endless).1, Err(ConnectError::Malformed(1024))));
    }

    #[test]
    fn a_missing_socket_is_unreachable() {
        let missing = Path::new("/nonexistent/vsock.sock");
        assert!(matches!(connect(missing, 1, ACCEPT_TIME), Err(ConnectError::Unreachable { .. })));
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_without_panic(line in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_answer(&line);
        }
    }
}
