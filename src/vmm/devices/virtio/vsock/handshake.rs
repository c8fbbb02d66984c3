//! The line by which a client of the Unix socket says which of the guest's ports it wants:
//! `CONNECT <port>\n`, answered with `OK <host port>\n`, or by closing the socket.
//!
//! What follows the line belongs to the connection: the parser looks at bytes that are still in
//! the socket, and says how many of them are the line.

use super::packet::PORT_ANY;

/// Longest line in bytes. The longest that makes sense has 19.
pub const MAX_LINE: usize = 32;

const COMMAND: &[u8] = b"CONNECT ";

/// What the first bytes of a client mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// There is no whole line yet.
    Incomplete,
    /// The client wants to connect.
    Connect {
        /// to this port of the guest
        port: u32,
        /// bytes that the line is long, its end included
        len: usize,
    },
    /// No handshake.
    Invalid,
}

/// Reads the line at the front of `bytes`, of which those beyond [`MAX_LINE`] are not looked at.
pub fn parse(bytes: &[u8]) -> Handshake {
    let (head, _) = bytes.split_at(bytes.len().min(MAX_LINE));
    let mut parts = head.splitn(2, |byte| *byte == b'\n');
    let line = parts.next().unwrap_or_default();
    if parts.next().is_none() {
        let possible = head.len() < MAX_LINE && head.iter().zip(COMMAND).all(|(a, b)| a == b);
        return if possible { Handshake::Incomplete } else { Handshake::Invalid };
    }
    match line.strip_prefix(COMMAND).and_then(port) {
        Some(port) => Handshake::Connect { port, len: line.len() + 1 },
        None => Handshake::Invalid,
    }
}

/// The line that says that the guest has accepted.
pub fn accepted(host_port: u32) -> String {
    format!("OK {host_port}\n")
}

fn port(digits: &[u8]) -> Option<u32> {
    // `parse` alone would allow a sign.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let port = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (port != PORT_ANY).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_follows_the_line_is_not_touched() {
        assert_eq!(parse(b"CONNECT 52\nCONNECT 53\n"), Handshake::Connect { port: 52, len: 11 });
        assert_eq!(parse(b"CONNECT 0\n\xff"), Handshake::Connect { port: 0, len: 10 });
    }

    #[test]
    fn lines_may_come_in_pieces() {
        let line = b"CONNECT 4294967294\n";
        for len in 0..line.len() {
            assert_eq!(parse(&line[..len]), Handshake::Incomplete, "{len}");
        }
        assert_eq!(parse(line), Handshake::Connect { port: u32::MAX - 1, len: line.len() });
    }

    #[test]
    fn anything_else_is_invalid() {
        let lines: [&[u8]; 12] = [
            b"\n",
            b"CONNECT\n",
            b"CONNECT \n",
            b"CONNECT +1\n",
            b"CONNECT -1\n",
            b"CONNECT 1 \n",
            b"CONNECT  1\n",
            b"CONNECT 1\r\n",
            b"CONNECT 4294967295\n",
            b"CONNECT 4294967296\n",
            b"GET / HTTP/1.1\n",
            b"GET",
        ];
        for line in lines {
            assert_eq!(parse(line), Handshake::Invalid, "{line:?}");
        }
        assert_eq!(parse(&[b"CONNECT ", [b'0'; 100].as_slice()].concat()), Handshake::Invalid);
    }

    proptest! {
        #[test]
        fn every_port_comes_back(port in 0..PORT_ANY, rest: Vec<u8>) {
            let mut bytes = format!("CONNECT {port}\n").into_bytes();
            let len = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(parse(&bytes), Handshake::Connect { port, len });
        }

        #[test]
        fn garbage_is_parsed_without_a_panic(bytes: Vec<u8>) {
            if let Handshake::Connect { len, .. } = parse(&bytes) {
                prop_assert_eq!(bytes[len - 1], b'\n');
            }
        }
    }
}
