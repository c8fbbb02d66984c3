//! The streams that a runtime serves for `Exec`, `Attach` and `PortForward`: channels within one WebSocket
//! connection (`v4.channel.k8s.io`), each message's first byte being the channel's number.

use std::net::TcpStream;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// Channels of `Exec` and `Attach`.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

/// Why streams failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("{0} is no address of streams")]
    Address(String),
    #[error("the runtime's streams: {0}")]
    Socket(#[from] Box<tungstenite::Error>),
    #[error("the runtime's streams ended without a status")]
    NoStatus,
    #[error("a status that cannot be read: {0}")]
    Status(#[from] serde_json::Error),
}

impl From<tungstenite::Error> for StreamError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// What a command in a container has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Exit code where it ended by itself; else why not.
    pub code: Result<i32, String>,
}

/// An open connection.
#[derive(Debug)]
pub struct Streams {
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
}

impl Streams {
    /// At the address that `Exec`, `Attach` or `PortForward` gave, which is good for one connection.
    pub fn open(url: &str) -> Result<Self, StreamError> {
        let address = url
            .strip_prefix("http://")
            .map(|rest| format!("ws://{rest}"))
            .ok_or_else(|| StreamError::Address(url.to_owned()))?;
        let mut request = address.into_client_request()?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", HeaderValue::from_static("v4.channel.k8s.io"));
        let (socket, _) = tungstenite::connect(request)?;
        Ok(Self { socket })
    }

    /// Sends to a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), StreamError> {
        let message = [&[channel], bytes].concat();
        Ok(self.socket.send(Message::Binary(message.into()))?)
    }

    /// Sends standard input.
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.send(STDIN, bytes)
    }

    /// Tells the terminal's size.
    pub fn resize(&mut self, width: u16, height: u16) -> Result<(), StreamError> {
        let size = format!(r#"{{"Width":{width},"Height":{height}}}"#);
        self.send(RESIZE, size.as_bytes())
    }

    /// What comes next, and from which channel; nothing when the runtime has closed.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>, StreamError> {
        loop {
            let message = match self.socket.read() {
                Ok(Message::Binary(bytes)) => bytes.to_vec(),
                Ok(Message::Text(text)) => text.as_bytes().to_vec(),
                Ok(Message::Close(_))
                | Err(
                    tungstenite::Error::ConnectionClosed
                    | tungstenite::Error::AlreadyClosed
                    | tungstenite::Error::Protocol(_),
                ) => return Ok(None),
                Ok(_) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some((&channel, bytes)) = message.split_first() {
                return Ok(Some((channel, bytes.to_vec())));
            }
        }
    }

    /// Reads standard output until this text has come; all that was read.
    pub fn until(&mut self, text: &str) -> Result<String, StreamError> {
        let mut read = String::new();
        while !read.contains(text) {
            match self.receive()? {
                Some((STDOUT, bytes)) => read.push_str(&String::from_utf8_lossy(&bytes)),
                Some((STATUS, _)) | None => return Err(StreamError::NoStatus),
                Some(_) => {}
            }
        }
        Ok(read)
    }

    /// Reads to the end.
    pub fn end(mut self) -> Result<Ended, StreamError> {
        let mut ended = Ended { stdout: vec![], stderr: vec![], code: Ok(0) };
        let mut status = Vec::new();
        while let Some((channel, bytes)) = self.receive()? {
            match channel {
                STDOUT => ended.stdout.extend(bytes),
                STDERR => ended.stderr.extend(bytes),
                STATUS => status.extend(bytes),
                _ => {}
            }
        }
        if status.is_empty() {
            return Err(StreamError::NoStatus);
        }
        ended.code = code_of(&serde_json::from_slice(&status)?);
        Ok(ended)
    }
}

/// The exit code that a `metav1.Status` tells.
fn code_of(status: &serde_json::Value) -> Result<i32, String> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let cause = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    let code = cause.and_then(|cause| cause["message"].as_str()?.parse().ok());
    code.ok_or_else(|| status["message"].as_str().unwrap_or("no reason").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn exit_codes_are_read_from_a_status() {
        assert_eq!(code_of(&json!({"metadata": {}, "status": "Success"})), Ok(0));
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "failed",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}});
        assert_eq!(code_of(&failed), Ok(7));
        let refused = json!({"status": "Failure", "message": "no such file"});
        assert_eq!(code_of(&refused), Err("no such file".to_owned()));
    }
}
