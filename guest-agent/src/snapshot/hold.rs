//! `Hold` and `Release`: a snapshot of a guest with containers, whose streams are to live on in it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Agent;

/// Whether broken connections are a snapshot's doing.
#[derive(Debug, Default)]
pub struct Held(AtomicBool);

impl Held {
    /// Not so.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Whether it is so.
    pub fn is(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// From here on, a stream whose connection breaks waits.
pub fn hold(agent: &Agent) {
    agent.held.0.store(true, Ordering::SeqCst);
}

/// The end of it: streams that wait without the prospect of a connection are let go of.
pub fn release(agent: &Agent) {
    agent.held.0.store(false, Ordering::SeqCst);
    agent.containers.release_streams();
}
