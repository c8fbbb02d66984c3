//! A container's life, as a pure state machine.
//!
//! ```text
//! Creating ─created→ Created ─start→ Running ─ended→ Stopped
//!                       └────────ended─────────────────↑
//! ```

use crate::error::{Error, Result};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its first process is being set up.
    Creating,
    /// Its first process waits for the start.
    Created,
    /// Its first process was told to execute its program.
    Running,
    /// Its first process has ended.
    Stopped,
}

impl State {
    /// The set-up is done; an end that was seen meanwhile stays.
    pub fn created(&mut self) {
        if *self == Self::Creating {
            *self = Self::Created;
        }
    }

    /// The first process ended.
    pub fn ended(&mut self) {
        *self = Self::Stopped;
    }

    /// # Errors
    /// Not in [`State::Created`].
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.require(&[Self::Created], name, "started")?;
        *self = Self::Running;
        Ok(())
    }

    /// # Errors
    /// The first process is not running its program.
    pub fn may_exec(self, name: &str) -> Result<()> {
        self.require(&[Self::Running], name, "given another process")
    }

    /// # Errors
    /// There is no process to take the signal.
    pub fn may_kill(self, name: &str) -> Result<()> {
        self.require(&[Self::Created, Self::Running], name, "sent a signal")
    }

    /// # Errors
    /// The first process runs, or is being made.
    pub fn may_delete(self, name: &str) -> Result<()> {
        self.require(&[Self::Created, Self::Stopped], name, "deleted")
    }

    fn require(self, allowed: &[Self], name: &str, action: &str) -> Result<()> {
        if allowed.contains(&self) {
            return Ok(());
        }
        let state = match self {
            Self::Creating => "being created",
            Self::Created => "created, not started",
            Self::Running => "running",
            Self::Stopped => "stopped",
        };
        Err(Error::WrongState(format!("container {name:?} is {state} and cannot be {action}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_starts_once() {
        let mut state = State::Creating;
        assert!(state.start("c").is_err());
        state.created();
        assert!(state.may_exec("c").is_err());
        assert!(state.start("c").is_ok());
        assert!(state.start("c").is_err());
        assert!(state.may_exec("c").is_ok());
        assert!(state.may_delete("c").is_err());
        state.ended();
        assert!(state.may_exec("c").is_err());
        assert!(state.may_kill("c").is_err());
        assert!(state.may_delete("c").is_ok());
    }

    #[test]
    fn an_end_during_creation_is_not_forgotten() {
        let mut state = State::Creating;
        state.ended();
        state.created();
        assert_eq!(state, State::Stopped);
    }
}
