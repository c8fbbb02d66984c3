//! The ready connection: what the host is told without being asked. Its end is the guest's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use ampoule_protocol::VERSION;
use ampoule_protocol::frame;
use ampoule_protocol::message::{Event, Hello};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::transport::Connection;

/// The host, as it hears of events.
#[derive(Debug)]
pub struct Host {
    connection: Connection,
    /// Whole frames only.
    writing: Mutex<()>,
}

impl Host {
    /// Over the ready connection.
    pub const fn new(connection: Connection) -> Self {
        Self { connection, writing: Mutex::new(()) }
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
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut &self.connection, message)
            .map_err(|e| Error::system("talk to the host", std::io::Error::other(e)))
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
