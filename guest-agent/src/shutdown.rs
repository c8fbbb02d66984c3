//! The guest's end: asked for, by the host's own end, or because the agent cannot go on.

use std::time::Duration;

use ampoule_protocol::message::{AgentError, Event};
use nix::sys::reboot::{RebootMode, reboot};

use crate::error::Error;
use crate::{AGENT, Agent, container, log};

/// How long the reply to a shutdown may take to reach the host. A host that closes its connection
/// after the reply ends the wait.
pub const REPLY_DEADLINE: Duration = Duration::from_millis(500);

/// How the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The machine is reset, which the monitor takes for its end.
    Reset,
    /// The process exits: there is no machine of its own around it.
    Exit,
}

/// Kills every container and writes out what is not on disk yet.
pub fn prepare(agent: &Agent) {
    container::kill_everything(agent);
    nix::unistd::sync();
}

/// Ends the guest at once.
pub fn end(ending: Ending) -> ! {
    if ending == Ending::Reset {
        let Err(e) = reboot(RebootMode::RB_AUTOBOOT);
        log::line(&format!("cannot reset the machine: {e}"));
    }
    // The kernel panics, and resets, where PID 1 exits.
    std::process::exit(0)
}

/// Ends the guest because the agent cannot go on; tells the host and the log why.
pub fn fatal(ending: Ending, error: Error) -> ! {
    let message = AgentError::from(error).message;
    log::line(&message);
    if let Some(agent) = AGENT.get() {
        agent.host.tell(&Event::Fatal { message });
    }
    match ending {
        Ending::Reset => end(ending),
        Ending::Exit => std::process::exit(1),
    }
}

/// A panic in any thread is the agent's end.
pub fn end_on_panic(ending: Ending) {
    std::panic::set_hook(Box::new(move |panic| {
        fatal(ending, Error::WrongState(format!("the agent failed: {panic}")));
    }));
}
