//! Pairs stdio stream connections with the processes that wait for them.
//!
//! The host opens a connection and names it by a token; a request gives that token to a stream of
//! a process. Either may come first.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use ampoule_protocol::frame;
use ampoule_protocol::message::StreamHello;

use crate::error::{Error, Result};
use crate::log;
use crate::thread;
use crate::transport::{Connection, Listener};

/// Connections that may wait for their request; the oldest is closed to make room for one more.
const MAX_WAITING_CONNECTIONS: usize = 256;

/// Longest token, in bytes.
const MAX_TOKEN: usize = 256;

/// What is known of each token: a pure table, `C` a connection and `S` what waits for one.
#[derive(Debug)]
struct Pairing<C, S> {
    halves: BTreeMap<String, Half<C, S>>,
    arrivals: u64,
}

#[derive(Debug)]
enum Half<C, S> {
    Connection { connection: C, arrival: u64 },
    Slot(S),
}

/// What a new connection leads to.
#[derive(Debug, PartialEq, Eq)]
enum Arrived<C, S> {
    /// A process waits for it.
    Paired(C, S),
    /// It waits for its request; the given other connection was dropped for it.
    Waits(Option<C>),
    /// Another connection with that token waits already.
    Duplicate(C),
}

impl<C, S> Pairing<C, S> {
    const fn new() -> Self {
        Self { halves: BTreeMap::new(), arrivals: 0 }
    }

    fn arrive(&mut self, token: String, connection: C) -> Arrived<C, S> {
        match self.halves.remove(&token) {
            Some(Half::Slot(slot)) => Arrived::Paired(connection, slot),
            Some(waiting @ Half::Connection { .. }) => {
                self.halves.insert(token, waiting);
                Arrived::Duplicate(connection)
            }
            None => {
                let dropped = self.make_room();
                self.arrivals += 1;
                let arrival = self.arrivals;
                self.halves.insert(token, Half::Connection { connection, arrival });
                Arrived::Waits(dropped)
            }
        }
    }

    fn make_room(&mut self) -> Option<C> {
        let waiting = self.halves.iter().filter_map(|(token, half)| match half {
            Half::Connection { arrival, .. } => Some((*arrival, token)),
            Half::Slot(_) => None,
        });
        if waiting.clone().count() < MAX_WAITING_CONNECTIONS {
            return None;
        }
        let oldest = waiting.min()?.1.clone();
        match self.halves.remove(&oldest)? {
            Half::Connection { connection, .. } => Some(connection),
            Half::Slot(_) => None,
        }
    }

    /// `Err` gives the slot back where another one has that token.
    fn expect(&mut self, token: &str, slot: S) -> std::result::Result<Option<(C, S)>, S> {
        match self.halves.remove(token) {
            Some(Half::Connection { connection, .. }) => Ok(Some((connection, slot))),
            Some(taken @ Half::Slot(_)) => {
                self.halves.insert(token.to_owned(), taken);
                Err(slot)
            }
            None => {
                self.halves.insert(token.to_owned(), Half::Slot(slot));
                Ok(None)
            }
        }
    }

    fn forget(&mut self, token: &str) -> Option<S> {
        match self.halves.remove(token)? {
            Half::Slot(slot) => Some(slot),
            connection @ Half::Connection { .. } => {
                self.halves.insert(token.to_owned(), connection);
                None
            }
        }
    }
}

/// Runs once, with the stream's connection.
type Slot = Box<dyn FnOnce(Connection) + Send>;

/// The streams of the sandbox.
pub struct Streams(Mutex<Pairing<Connection, Slot>>);

impl Streams {
    /// No streams yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Pairing::new()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pairing<Connection, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `slot` with the connection of that token as soon as it is there, maybe at once.
    ///
    /// # Errors
    /// The token is too long, or is in use.
    pub fn expect(
        &self,
        token: &str,
        slot: impl FnOnce(Connection) + Send + 'static,
    ) -> Result<()> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Invalid(format!("stream token of {} bytes", token.len())));
        }
        let paired = self
            .lock()
            .expect(token, Box::new(slot))
            .map_err(|_| Error::Invalid(format!("stream token {token:?} is used twice")))?;
        if let Some((connection, slot)) = paired {
            slot(connection);
        }
        Ok(())
    }

    /// Nobody waits for that token any more.
    pub fn forget(&self, token: &str) {
        // The slot's own drop may take other locks: let go of this one first.
        let slot = self.lock().forget(token);
        drop(slot);
    }

    /// Takes stream connections for ever; returns where the listening socket fails.
    pub fn serve(&'static self, listener: &Listener) -> io::Error {
        loop {
            match listener.accept() {
                Ok(connection) => {
                    // The hello is on its way or here, but a slow one must not hold up the others.
                    if let Err(e) = thread::spawn("stream", move || self.greet(connection)) {
                        log::line(&format!("no thread for a stream: {e}"));
                    }
                }
                Err(e) => return e,
            }
        }
    }

    fn greet(&self, connection: Connection) {
        let Ok(hello) = frame::read::<StreamHello>(&mut &connection) else {
            return;
        };
        if hello.token.len() > MAX_TOKEN {
            return;
        }
        let arrived = self.lock().arrive(hello.token, connection);
        if let Arrived::Paired(connection, slot) = arrived {
            slot(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn either_half_may_come_first() {
        let mut pairing = Pairing::<u32, &str>::new();
        assert_eq!(pairing.arrive("a".into(), 1), Arrived::Waits(None));
        assert_eq!(pairing.expect("a", "slot"), Ok(Some((1, "slot"))));
        assert_eq!(pairing.expect("b", "slot"), Ok(None));
        assert_eq!(pairing.arrive("b".into(), 2), Arrived::Paired(2, "slot"));
        assert!(pairing.halves.is_empty());
    }

    #[test]
    fn a_token_names_one_connection_and_one_slot() {
        let mut pairing = Pairing::<u32, &str>::new();
        pairing.arrive("a".into(), 1);
        assert_eq!(pairing.arrive("a".into(), 2), Arrived::Duplicate(2));
        pairing.expect("b", "first").unwrap();
        assert_eq!(pairing.expect("b", "second"), Err("second"));
    }

    #[test]
    fn forgetting_a_slot_leaves_connections_alone() {
        let mut pairing = Pairing::<u32, &str>::new();
        pairing.arrive("a".into(), 1);
        assert_eq!(pairing.forget("a"), None);
        assert_eq!(pairing.expect("a", "slot"), Ok(Some((1, "slot"))));
        pairing.expect("b", "slot").unwrap();
        assert_eq!(pairing.forget("b"), Some("slot"));
    }

    #[test]
    fn the_oldest_waiting_connection_makes_room() {
        let mut pairing = Pairing::<usize, &str>::new();
        for n in 0..MAX_WAITING_CONNECTIONS {
            assert_eq!(pairing.arrive(format!("token-{n}"), n), Arrived::Waits(None));
        }
        assert_eq!(pairing.arrive("one more".into(), 999), Arrived::Waits(Some(0)));
        assert_eq!(pairing.halves.len(), MAX_WAITING_CONNECTIONS);
    }

    proptest! {
        #[test]
        fn every_pair_is_made_of_one_token(
            events in prop::collection::vec((any::<bool>(), 0u8..6), 0..60),
        ) {
            let mut pairing = Pairing::<u8, u8>::new();
            for (is_connection, token) in events {
                let name = token.to_string();
                let paired = if is_connection {
                    match pairing.arrive(name, token) {
                        Arrived::Paired(c, s) => Some((c, s)),
                        _ => None,
                    }
                } else {
                    pairing.expect(&name, token).unwrap_or(None)
                };
                if let Some((connection, slot)) = paired {
                    prop_assert_eq!(connection, slot);
                    prop_assert!(!pairing.halves.contains_key(&token.to_string()));
                }
            }
        }
    }
}
