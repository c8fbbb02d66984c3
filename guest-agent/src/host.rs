//! The connection on which the host is told without being asked: the ready connection, or one that
//! took its place. Its end is the guest's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ampoule_protocol::VERSION;
use ampoule_protocol::frame;
use ampoule_protocol::message::{Event, Hello};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::transport::Connection;
use crate::watch::Watcher;

/// The host, as it hears of events.
#[derive(Debug)]
pub struct Host {
    /// None in a template, and in a restored guest that has not been given one yet. The lock is
    /// held while a frame is written: whole frames only.
    connection: Mutex<Option<Connection>>,
}

impl Host {
    /// Nobody is told anything yet.
    pub const fn new() -> Self {
        Self { connection: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Over this connection from now on, in place of the one before.
    pub fn adopt(&self, connection: Connection, watcher: &Watcher) -> Result<()> {
        let mut current = self.lock();
        watcher.watch_host(&connection)?;
        if let Some(old) = current.replace(connection) {
            watcher.forget_host(&old);
        }
        Ok(())
    }

    /// Closes the connection: its end is not the guest's any more.
    pub fn let_go(&self, watcher: &Watcher) {
        if let Some(old) = self.lock().take() {
            watcher.forget_host(&old);
        }
    }

    /// Whether the connection was closed by the host. What the main loop was woken by may have been
    /// another one, which was replaced meanwhile.
    pub fn is_gone(&self) -> bool {
        self.lock().as_ref().is_some_and(Connection::is_ending)
    }

    /// Tells that the agent serves requests.
    pub fn greet(&self, entered_us: u64, ready_us: u64) -> Result<()> {
        self.send(&Hello { version: VERSION, entered_us, ready_us })
    }

    /// Tells of an event. A host that does not hear it is gone, which the main loop sees.
    pub fn tell(&self, event: &Event) {
        let _ = self.send(event);
    }

    fn send(&self, message: &impl Serialize) -> Result<()> {
        match self.lock().as_ref() {
            None => Ok(()),
            Some(mut connection) => frame::write(&mut connection, message)
                .map_err(|e| Error::system("talk to the host", std::io::Error::other(e))),
        }
    }
}
