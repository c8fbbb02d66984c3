//! A container's life, as a pure state machine.
//!
//! ```text
//! Creating ─created→ Created ─start→ Running ─ended→ Stopped
//!                       └────────ended─────────────────↑
//! ```
//!
//! `Created` and `Running` can be left for `Paused`, which goes back to where it came from or ends.

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
    /// Its processes are frozen.
    Paused {
        /// It was running, not just created.
        running: bool,
    },
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
    /// There is nothing to freeze, or it is frozen.
    pub fn pause(&mut self, name: &str) -> Result<()> {
        self.require(&[Self::Created, Self::Running], name, "paused")?;
        *self = Self::Paused { running: *self == Self::Running };
        Ok(())
    }

    /// # Errors
    /// Not in [`State::Paused`].
    pub fn resume(&mut self, name: &str) -> Result<()> {
        let Self::Paused { running } = *self else {
            return self.require(&[], name, "resumed");
        };
        *self = if running { Self::Running } else { Self::Created };
        Ok(())
    }

    /// # Errors
    /// There are no processes that limits could be for.
    pub fn may_update(self, name: &str) -> Result<()> {
        self.may_kill(name).or_else(|_| self.require(&[], name, "updated"))
    }

    /// # Errors
    /// The first process is not running its program.
    pub fn may_exec(self, name: &str) -> Result<()> {
        self.require(&[Self::Running], name, "given another process")
    }

    /// # Errors
    /// There is no process to take the signal.
    pub fn may_kill(self, name: &str) -> Result<()> {
        let alive = [
            Self::Created,
            Self::Running,
            Self::Paused { running: true },
            Self::Paused { running: false },
        ];
        self.require(&alive, name, "sent a signal")
    }

    /// # Errors
    /// There is no process whose root could be looked into.
    pub fn may_copy(self, name: &str) -> Result<()> {
        self.may_kill(name).or_else(|_| self.require(&[], name, "looked into"))
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
            Self::Paused { .. } => "paused",
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
    fn a_pause_leads_back_to_where_it_came_from() {
        for (before, runs) in [(State::Created, false), (State::Running, true)] {
            let mut state = before;
            state.pause("c").unwrap();
            assert!(state.pause("c").is_err() && state.start("c").is_err());
            assert!(state.may_exec("c").is_err() && state.may_delete("c").is_err());
            assert!(state.may_kill("c").is_ok() && state.may_update("c").is_ok());
            state.resume("c").unwrap();
            assert_eq!(state, before);
            assert_eq!(state.may_exec("c").is_ok(), runs);
            assert!(state.resume("c").is_err());
        }
        let mut ended = State::Paused { running: true };
        ended.ended();
        assert!(ended.resume("c").is_err() && ended.may_update("c").is_err());
    }

    #[test]
    fn an_end_during_creation_is_not_forgotten() {
        let mut state = State::Creating;
        state.ended();
        state.created();
        assert_eq!(state, State::Stopped);
    }
}
