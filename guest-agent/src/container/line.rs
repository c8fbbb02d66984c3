//! One stream of a process, between its relays, which move the bytes, and the requests that act on
//! it: a pure state machine, and the lock around it.
//!
//! ```text
//! Awaited ─connect→ Connected ─lost while held→ Parked ─promise→ Awaited
//!                       │ lost                    │ release
//!                       ↓                         ↓
//!                     Over ←─────over────────── LetGo
//! ```

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::streams::Streams;
use crate::transport::Connection;

/// What a stream is to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Host → process.
    Stdin,
    /// Process → host.
    Stdout,
    /// Process → host.
    Stderr,
    /// Both ways.
    Terminal,
}

/// Where a stream is in its life; `C` is a connection.
#[derive(Debug, PartialEq, Eq)]
enum Phase<C> {
    /// A connection was promised and has not come yet.
    Awaited,
    /// The relays have this one, and see for themselves when it breaks.
    Connected(C),
    /// The connection broke while streams are held: the relays wait.
    Parked,
    /// Nobody wants the stream any more. The connection is one that broke without the relays
    /// having seen it yet.
    LetGo(Option<C>),
    /// There is nothing more to relay.
    Over,
}

/// What relays do whose connection broke.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost<C> {
    /// Go on with this one.
    Another(C),
    /// The process must not notice: its input ends, its output is thrown away.
    LetGo,
    /// The process may notice.
    Close,
}

impl<C: Clone + PartialEq> Phase<C> {
    /// A relay's connection broke; none while it has to wait.
    fn lost(&mut self, broken: &C, held: bool) -> Option<Lost<C>> {
        match self {
            Self::Connected(current) if current == broken && held => *self = Self::Parked,
            Self::Connected(current) if current == broken => *self = Self::Over,
            _ => {}
        }
        self.after(broken)
    }

    /// What comes after a connection that a relay does not use any more; none while it has to wait.
    fn after(&self, old: &C) -> Option<Lost<C>> {
        match self {
            Self::Connected(current) if current == old => None,
            Self::Connected(current) => Some(Lost::Another(current.clone())),
            Self::Awaited | Self::Parked => None,
            Self::LetGo(_) => Some(Lost::LetGo),
            Self::Over => Some(Lost::Close),
        }
    }

    /// A connection came; it is given back where nobody waits for it.
    fn connect(&mut self, connection: C) -> std::result::Result<(), C> {
        match self {
            Self::Awaited => {
                *self = Self::Connected(connection);
                Ok(())
            }
            _ => Err(connection),
        }
    }

    /// Whether the stream may be given another connection: it has none that works, or needs none.
    fn may_promise(&self, is_broken: impl Fn(&C) -> bool) -> bool {
        match self {
            Self::Connected(connection) => is_broken(connection),
            Self::Awaited | Self::Parked | Self::Over => true,
            Self::LetGo(_) => false,
        }
    }

    /// Another connection will come.
    fn promise(&mut self) {
        if matches!(self, Self::Connected(_) | Self::Parked) {
            *self = Self::Awaited;
        }
    }

    /// No connection will come any more, where the one that there was broke.
    fn release(&mut self, is_broken: impl Fn(&C) -> bool) {
        match self {
            Self::Connected(connection) if is_broken(connection) => {
                *self = Self::LetGo(Some(connection.clone()));
            }
            Self::Parked => *self = Self::LetGo(None),
            _ => {}
        }
    }
}

/// Starts the relays, with their first connection.
pub type Start = Box<dyn FnOnce(Arc<Connection>) + Send>;

/// One stream.
pub struct Line {
    role: Role,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    phase: Phase<Peer>,
    /// The token of the connection that is awaited.
    token: Option<String>,
    start: Option<Start>,
}

/// A connection that is the same as itself only.
#[derive(Debug, Clone)]
struct Peer(Arc<Connection>);

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Line {
    /// A stream whose first connection starts its relays.
    pub fn new(role: Role, start: Start) -> Self {
        let state = State { phase: Phase::Awaited, token: None, start: Some(start) };
        Self { role, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// What it is to its process.
    pub fn role(&self) -> Role {
        self.role
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `streams` bring the connection of that token.
    ///
    /// # Errors
    /// The token is not valid, or is in use.
    pub fn expect(self: &Arc<Self>, streams: &Streams, token: &str) -> Result<()> {
        let line = self.clone();
        streams.expect(token, move |connection| line.connect(connection))?;
        self.state().token = Some(token.to_owned());
        Ok(())
    }

    fn connect(&self, connection: Connection) {
        let peer = Peer(Arc::new(connection));
        let mut state = self.state();
        state.token = None;
        match state.phase.connect(peer.clone()) {
            // The stream is over: so is its connection.
            Err(peer) => peer.0.end(),
            Ok(()) => {
                let start = state.start.take();
                drop(state);
                match start {
                    Some(start) => start(peer.0),
                    None => self.changed.notify_all(),
                }
            }
        }
    }

    /// Blocks a relay whose connection broke until it is said what to do.
    pub fn lost(&self, broken: &Arc<Connection>, held: impl Fn() -> bool) -> Lost<Arc<Connection>> {
        // `held` is asked under the lock: see `release`.
        self.wait(|phase| phase.lost(&Peer(broken.clone()), held()))
    }

    /// Blocks a relay that has no more use of its connection, though it works, until there is
    /// another one or none.
    pub fn another(&self, old: &Arc<Connection>) -> Lost<Arc<Connection>> {
        self.wait(|phase| phase.after(&Peer(old.clone())))
    }

    fn wait(
        &self,
        mut next: impl FnMut(&mut Phase<Peer>) -> Option<Lost<Peer>>,
    ) -> Lost<Arc<Connection>> {
        let mut state = self.state();
        loop {
            match next(&mut state.phase) {
                Some(Lost::Another(peer)) => return Lost::Another(peer.0),
                Some(Lost::LetGo) => return Lost::LetGo,
                Some(Lost::Close) => {
                    // A terminal's other relay may wait for this.
                    self.changed.notify_all();
                    return Lost::Close;
                }
                None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// A relay has nothing more to do.
    pub fn over(&self) {
        self.state().phase = Phase::Over;
        self.changed.notify_all();
    }

    /// # Errors
    /// Its connection works, or the stream was let go of.
    pub fn may_attach(&self) -> Result<()> {
        if self.state().phase.may_promise(|peer| self.is_broken(peer)) {
            return Ok(());
        }
        Err(Error::WrongState(format!("{:?} waits for no stream", self.role)))
    }

    /// Gives it another connection, when that comes.
    ///
    /// # Errors
    /// As [`Line::may_attach`] and [`Line::expect`].
    pub fn attach(self: &Arc<Self>, streams: &Streams, token: &str) -> Result<()> {
        self.may_attach()?;
        self.state().phase.promise();
        if let Some(old) = self.take_token() {
            streams.forget(&old);
        }
        self.expect(streams, token)
    }

    fn take_token(&self) -> Option<String> {
        self.state().token.take()
    }

    /// Lets go of it where its connection broke, seen by the relays or not. From here on a break is
    /// one like any other: streams are not held any more when this is called.
    pub fn release(&self) {
        self.state().phase.release(|peer| self.is_broken(peer));
        self.changed.notify_all();
    }

    /// Lets go of it whatever state it is in: its process is being removed.
    pub fn abandon(&self, streams: &Streams) {
        if let Some(token) = self.take_token() {
            streams.forget(&token);
        }
        let mut state = self.state();
        let start = state.start.take();
        let phase = std::mem::replace(&mut state.phase, Phase::LetGo(None));
        match phase {
            Phase::Connected(peer) | Phase::LetGo(Some(peer)) => peer.0.end(),
            Phase::Over => state.phase = Phase::Over,
            Phase::Awaited | Phase::Parked | Phase::LetGo(None) => {}
        }
        drop(state);
        self.changed.notify_all();
        // Its drop takes the process's locks.
        drop(start);
    }

    /// There is nobody any more who reads the input.
    pub fn process_ended(&self) {
        let mut state = self.state();
        if self.role == Role::Stdin && matches!(state.phase, Phase::Parked | Phase::Awaited) {
            let start = state.start.take();
            state.phase = Phase::Over;
            drop(state);
            drop(start);
            self.changed.notify_all();
        }
    }

    /// The end of the host's bytes breaks an input, though the connection may still take some.
    fn is_broken(&self, peer: &Peer) -> bool {
        match self.role {
            Role::Stdin => peer.0.is_ending(),
            Role::Stdout | Role::Stderr | Role::Terminal => peer.0.is_gone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_broken(connection: &u8) -> bool {
        *connection < 10
    }

    #[test]
    fn a_break_that_nobody_holds_is_the_streams_end() {
        let mut phase = Phase::Awaited;
        phase.connect(1).unwrap();
        assert_eq!(phase.lost(&1, false), Some(Lost::Close));
        assert_eq!(phase.connect(2), Err(2));
    }

    #[test]
    fn a_held_stream_waits_for_the_next_connection() {
        let mut phase = Phase::Connected(1);
        assert_eq!(phase.lost(&1, true), None);
        assert_eq!(phase, Phase::Parked);
        // It waits on when streams are not held any more but a connection is promised.
        phase.promise();
        phase.release(is_broken);
        assert_eq!(phase.lost(&1, false), None);
        phase.connect(2).unwrap();
        assert_eq!(phase.lost(&1, false), Some(Lost::Another(2)));
        assert_eq!(phase.lost(&2, false), Some(Lost::Close));
    }

    #[test]
    fn a_release_lets_go_of_broken_streams_alone() {
        let mut seen = Phase::Connected(1);
        assert_eq!(seen.lost(&1, true), None);
        let mut unseen = Phase::Connected(1);
        for phase in [&mut seen, &mut unseen] {
            phase.release(is_broken);
            assert_eq!(phase.lost(&1, false), Some(Lost::LetGo));
            assert!(!phase.may_promise(is_broken));
        }
        let mut whole = Phase::Connected(11);
        whole.release(is_broken);
        assert_eq!(whole, Phase::Connected(11));
        assert!(!whole.may_promise(is_broken));
        let mut awaited = Phase::<u8>::Awaited;
        awaited.release(is_broken);
        assert_eq!(awaited, Phase::Awaited);
    }

    #[test]
    fn a_connection_may_come_before_its_relay_sees_the_break() {
        let mut phase = Phase::Connected(1);
        assert!(phase.may_promise(is_broken));
        phase.promise();
        phase.connect(12).unwrap();
        assert_eq!(phase.lost(&1, true), Some(Lost::Another(12)));
        assert_eq!(phase.after(&12), None);
    }

    proptest! {
        #[test]
        fn no_relay_is_given_what_it_lost_and_what_is_over_stays_over(
            steps in prop::collection::vec((0u8..6, 0u8..20), 0..40),
        ) {
            let mut phase = Phase::Awaited;
            for (step, n) in steps {
                let was_over = phase == Phase::Over;
                match step {
                    0 => drop(phase.connect(n)),
                    1 => prop_assert_ne!(phase.lost(&n, true), Some(Lost::Another(n))),
                    2 => prop_assert_ne!(phase.lost(&n, false), Some(Lost::Another(n))),
                    3 if phase.may_promise(is_broken) => phase.promise(),
                    4 => phase.release(is_broken),
                    5 => phase = Phase::Over,
                    _ => {}
                }
                prop_assert!(!was_over || phase == Phase::Over);
            }
        }
    }
}
