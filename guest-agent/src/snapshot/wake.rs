//! `Wake`: a restored guest becomes another one than its twins.

use ampoule_protocol::message::Wake;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::waking::Waking;
use crate::error::{Doing, Error, Result};
use crate::shutdown::Ending;
use crate::{Agent, container, random};

/// Takes everything that the request brings; the guest is its own when this returns.
///
/// The kernel's pool comes first: what follows may draw from it.
pub fn wake(agent: &Agent, request: Wake) -> Result<()> {
    let waking = Waking::check(request)?;
    random::reseed(&waking.seed)?;
    set_clock(waking.realtime, agent.ending)?;
    nix::unistd::sethostname(&waking.hostname)
        .doing(|| format!("set the host name {:?}", waking.hostname))?;
    agent.identity.change(&waking.boot_id, &waking.machine_id)?;
    container::rename_hosts(agent, &waking.hostname)
}

fn set_clock(now: TimeSpec, ending: Ending) -> Result<()> {
    match clock_settime(ClockId::CLOCK_REALTIME, now) {
        // Without a machine of its own around it, the clock may not be the agent's to set.
        Err(Errno::EPERM) if ending == Ending::Exit => Ok(()),
        result => result.map_err(|e| Error::system("set the clock", e)),
    }
}
