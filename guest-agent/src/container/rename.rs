//! The host name of containers that are there already when the guest gets another one.

use ampoule_protocol::message::INIT;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::sethostname;

use crate::error::{Doing, Result};
use crate::{Agent, thread};

/// Sets it in every container that has one of its own.
pub fn rename_hosts(agent: &Agent, name: &str) -> Result<()> {
    let has_own =
        |flags: i32| CloneFlags::from_bits_truncate(flags).contains(CloneFlags::CLONE_NEWUTS);
    let containers: Vec<_> =
        agent.containers.all().into_iter().filter(|c| has_own(c.namespaces)).collect();
    let members: Vec<_> = containers.iter().filter_map(|c| c.process(INIT).ok()).collect();
    if members.is_empty() {
        return Ok(());
    }
    // The namespace is the thread's alone, and ends with it.
    thread::run("rename", move || {
        for member in members {
            match setns(member.pidfd(), CloneFlags::CLONE_NEWUTS) {
                // It has ended, and with it its container's need of a name.
                Err(Errno::ESRCH) => {}
                joined => joined.and_then(|()| sethostname(name))?,
            }
        }
        Ok::<(), Errno>(())
    })
    .doing(|| "start a thread")?
    .doing(|| format!("set the containers' host name {name:?}"))
}
