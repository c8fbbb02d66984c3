//! Where a container's program runs: in a sandbox of its own, or in another container's.

use std::os::fd::{AsFd, BorrowedFd};

use super::super::error::SandboxError;
use super::super::launch::Sandbox;
use super::super::registry::InGuest;
use super::super::state::State;
use super::super::timings::Timings;
use super::join::Joined;
use crate::agent::{Client, EXCHANGE_TIME};
use ampoule_protocol::message::Request;

/// See the module. Dropping it leaves nothing behind.
#[derive(Debug)]
pub enum Home {
    /// A sandbox of its own.
    Own(Box<Sandbox>),
    /// Another container's.
    Joined(Box<Joined>),
}

impl Home {
    /// What other commands read of the container.
    pub fn state(&mut self) -> &mut State {
        match self {
            Self::Own(sandbox) => &mut sandbox.state,
            Self::Joined(joined) => &mut joined.state,
        }
    }

    /// The sandbox, where it is its own.
    pub fn own(&mut self) -> Option<&mut Sandbox> {
        match self {
            Self::Own(sandbox) => Some(sandbox),
            Self::Joined(_) => None,
        }
    }

    /// Writes the state down.
    pub fn write_state(&self) -> Result<(), SandboxError> {
        match self {
            Self::Own(sandbox) => sandbox.write_state(),
            Self::Joined(joined) => joined.write_state(),
        }
    }

    /// Where the agent is asked for the container.
    pub fn in_guest(&self) -> InGuest {
        match self {
            Self::Own(sandbox) => {
                let kept = sandbox.machine.kept();
                kept.map(|kept| kept.folder.in_guest(&sandbox.state)).unwrap_or_default()
            }
            Self::Joined(joined) => joined.in_guest(),
        }
    }

    /// Asks the agent for something.
    pub fn call(&self, request: &Request) -> Result<(), SandboxError> {
        Ok(Client::open(&self.in_guest().vsock, EXCHANGE_TIME)?.call(request)?)
    }

    /// The end of the guest; none where it lives.
    pub fn death(&mut self) -> Result<Option<SandboxError>, SandboxError> {
        match self {
            Self::Own(sandbox) => sandbox.machine.guest.death(),
            Self::Joined(joined) => Ok(Some(joined.host_ended())),
        }
    }

    /// The same where it lies behind a failed conversation with the guest.
    pub fn or_its_death(&mut self, error: impl Into<SandboxError>) -> SandboxError {
        match self {
            Self::Own(sandbox) => sandbox.machine.guest.or_its_death(error),
            Self::Joined(joined) => joined.or_its_death(error.into()),
        }
    }

    /// The end of the container whose sandbox it is, where that lies behind the end of this one.
    pub fn lost(&mut self) -> Option<SandboxError> {
        match self {
            Self::Own(_) => None,
            Self::Joined(joined) => joined.has_lost_host().then(|| joined.host_ended()),
        }
    }

    /// Ends what is the container's alone.
    pub fn end(self) -> Result<(State, Timings), SandboxError> {
        match self {
            Self::Own(sandbox) => sandbox.end(),
            Self::Joined(joined) => Ok((joined.end(), Timings::default())),
        }
    }
}

impl AsFd for Home {
    /// Readable when [`Home::death`] has something to say.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Own(sandbox) => sandbox.as_fd(),
            Self::Joined(joined) => joined.as_fd(),
        }
    }
}
