//! What an event of the device's epoll belongs to, in the 64 bits that come with it.

use super::packet::{PORT_ANY, Ports};

/// The source of an event. All but links have no host port, which no connection lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Clients want to be let in.
    Listener,
    /// A deadline is over.
    Timer,
    /// A client that has not said what it wants, by its number, below [`LISTENER`].
    Client(u32),
    /// A connection.
    Link(Ports),
}

const LISTENER: u32 = u32::MAX - 1;
const TIMER: u32 = u32::MAX;

impl Token {
    /// The number of the client after this one.
    pub fn next_client(self) -> u32 {
        match self {
            Self::Client(id) if id < LISTENER - 1 => id + 1,
            _ => 0,
        }
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (host, low) = match token {
            Token::Listener => (PORT_ANY, LISTENER),
            Token::Timer => (PORT_ANY, TIMER),
            Token::Client(id) => (PORT_ANY, id),
            Token::Link(ports) => (ports.host, ports.guest),
        };
        u64::from(host) << 32 | u64::from(low)
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = data.to_be_bytes();
        let host = u32::from_be_bytes([a, b, c, d]);
        let low = u32::from_be_bytes([e, f, g, h]);
        match (host, low) {
            (PORT_ANY, LISTENER) => Self::Listener,
            (PORT_ANY, TIMER) => Self::Timer,
            (PORT_ANY, id) => Self::Client(id),
            (host, guest) => Self::Link(Ports { host, guest }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive() {
        let ports = Ports { host: PORT_ANY - 1, guest: 7 };
        let tokens =
            [Token::Listener, Token::Timer, Token::Client(LISTENER - 1), Token::Link(ports)];
        for token in tokens {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }

    #[test]
    fn client_numbers_start_over() {
        assert_eq!(Token::Client(5).next_client(), 6);
        assert_eq!(Token::Client(LISTENER - 1).next_client(), 0);
    }
}
