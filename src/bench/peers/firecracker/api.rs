//! The few requests that are made of Firecracker: HTTP/1.1 over a Unix socket, one at a time.
//!
//! Three fixed requests, of whose answers only the status counts: less than what a client crate
//! wants to be told before it takes a Unix socket without a runtime.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a request may take: a snapshot of a large machine is written meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a socket that has a name may take until somebody listens on it.
const UNTIL_HEARD: Duration = Duration::from_secs(5);

/// No answer is longer, in bytes.
const LONGEST: usize = 64 << 10;

/// What it answers where a request was granted and there is nothing to tell.
const NO_CONTENT: u16 = 204;

/// Why a request was of no use.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// the socket
    #[error("no answer to {0}")]
    Socket(&'static str, #[source] io::Error),
    /// it says no, and why
    #[error("{path} was answered with {status}: {words}")]
    Refused {
        /// of the request
        path: &'static str,
        /// of HTTP
        status: u16,
        /// the answer's body
        words: String,
    },
    /// it does not speak HTTP
    #[error("the answer to {0} is not one of HTTP")]
    Garbled(&'static str),
}

/// A connection.
#[derive(Debug)]
pub struct Api {
    socket: UnixStream,
}

impl Api {
    /// Connects to a socket that is there or is just being made: between its name's appearance and
    /// its being listened on are two system calls, of whose second no event tells.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let until = Instant::now() + UNTIL_HEARD;
        let socket = loop {
            match UnixStream::connect(path) {
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused
                        && Instant::now() < until =>
                {
                    std::thread::yield_now();
                }
                other => break other?,
            }
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Makes a request and waits until it has been granted.
    pub fn request(
        &mut self,
        method: &str,
        path: &'static str,
        body: &Value,
    ) -> Result<(), ApiError> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let sent = self.socket.write_all(request.as_bytes());
        sent.map_err(|error| ApiError::Socket(path, error))?;
        let answer = read_answer(&mut self.socket, path)?;
        if answer.status == NO_CONTENT {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&answer.body).into_owned();
        Err(ApiError::Refused { path, status: answer.status, words })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn read_answer(from: &mut impl Read, path: &'static str) -> Result<Answer, ApiError> {
    let mut bytes = Vec::new();
    let mut part = [0u8; 4096];
    loop {
        if let Some(answer) = parse(&bytes).ok_or(ApiError::Garbled(path))? {
            return Ok(answer);
        }
        let count = from.read(&mut part).map_err(|error| ApiError::Socket(path, error))?;
        if count == 0 || bytes.len() > LONGEST {
            return Err(ApiError::Garbled(path));
        }
        bytes.extend_from_slice(part.get(..count).unwrap_or_default());
    }
}

/// The answer in these bytes: `None` where they are none, `Some(None)` where more must come.
fn parse(bytes: &[u8]) -> Option<Option<Answer>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        let begins = b"HTTP/1.";
        let known = bytes.len().min(begins.len());
        return (bytes.get(..known) == begins.get(..known)).then_some(None);
    };
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let mut lengths = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    let length = lengths.next().unwrap_or(Ok(0)).ok().filter(|length| *length <= LONGEST)?;
    let body = bytes.get(end + 4..)?;
    Some(body.get(..length).map(|body| Answer { status, body: body.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFUSED: &str =
        "HTTP/1.1 400 \r\nServer: Firecracker API\r\nContent-Length: 5\r\n\r\nno VM";

    #[test]
    fn answers_are_read_whatever_their_parts() {
        for cut in 0..REFUSED.len() {
            let (first, second) = REFUSED.split_at(cut);
            let mut stream = first.as_bytes().chain(second.as_bytes());
            let answer = read_answer(&mut stream, "/vm").unwrap();
            assert_eq!(answer, Answer { status: 400, body: b"no VM".to_vec() });
        }
        let granted = read_answer(&mut &b"HTTP/1.1 204 \r\n\r\n"[..], "/vm").unwrap();
        assert_eq!(granted.status, NO_CONTENT);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let long = format!("HTTP/1.1 200 \r\nContent-Length: {}\r\n\r\n", u64::MAX);
        for wrong in ["SSH-2.0-x\r\n", "HTTP/1.1 \r\n\r\n", "HTTP/1.1 2", "", &long] {
            let answer = read_answer(&mut wrong.as_bytes(), "/vm");
            assert!(matches!(answer, Err(ApiError::Garbled(_))), "{wrong:?}: {answer:?}");
        }
    }

    #[test]
    fn a_request_is_granted_or_refused_with_its_reason() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"HTTP/1.1 204 \r\n\r\n").unwrap();
        let mut api = Api { socket: ours };
        api.request("PATCH", "/vm", &serde_json::json!({ "state": "Paused" })).unwrap();
        let mut request = [0u8; 512];
        let count = theirs.read(&mut request).unwrap();
        let request = String::from_utf8_lossy(&request[..count]).into_owned();
        assert!(request.starts_with("PATCH /vm HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("Content-Length: 18\r\n\r\n{\"state\":\"Paused\"}"), "{request}");
        theirs.write_all(REFUSED.as_bytes()).unwrap();
        let refused = api.request("PUT", "/snapshot/load", &Value::Null).unwrap_err().to_string();
        assert_eq!(refused, "/snapshot/load was answered with 400: no VM");
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"HTTP/1.1 200 \r\n", &bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
