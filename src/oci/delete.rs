//! `ampoule-oci delete`: what is left of a container goes.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;

use super::error::host;
use super::hooks::{self, Kind};
use super::record::{Record, Status};
use super::store::Held;
use super::{Global, OciError, cgroup, kill, network};
use crate::process::Process;
use crate::sandbox::{Registry, SandboxError};

/// How long a keeper may take to end once its container has: it hands over what the container wrote.
const KEEPER_TIME: Duration = Duration::from_secs(10);

/// Remove a container that has ended or was not started
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End it first, whatever its state; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Id of the container
    id: String,
}

/// Runs the verb.
pub fn run(args: &Args, global: &Global) -> Result<ExitCode, OciError> {
    if args.force {
        by_force(global, &args.id)?
    } else {
        ended(global, &args.id)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes a container that has ended or was not started.
pub fn ended(global: &Global, id: &str) -> Result<(), OciError> {
    let (held, record) = global.store().hold(id)?;
    delete(global, held, &record, false)
}

/// Removes whatever there is of a container.
pub fn by_force(global: &Global, id: &str) -> Result<(), OciError> {
    let store = global.store();
    match store.hold(id) {
        Ok((held, record)) => delete(global, held, &record, true),
        // What a command leaves that was killed before there was a container.
        Err(OciError::NotFound(_) | OciError::Record { .. }) => match store.hold_any(id) {
            Ok(held) => remains(global, held),
            Err(OciError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn delete(global: &Global, held: Held, record: &Record, force: bool) -> Result<(), OciError> {
    match record.status {
        Status::Stopped => {}
        Status::Created => end(&held, record)?,
        _ if force => end(&held, record)?,
        status => return Err(OciError::NotStopped { id: record.id.clone(), status }),
    }
    let config = held.folder.read_config();
    sweep(record)?;
    clear_network(global, config.as_ref().ok());
    held.remove()?;
    // The container is gone: that a hook fails is told, and changes nothing (section "Lifecycle").
    let ran = config.and_then(|spec| Ok(hooks::run(&spec, Kind::Poststop, record)?));
    if let Err(error) = ran {
        global.log().warn(&crate::report::chain(&error));
    }
    Ok(())
}

/// Ends a container and its keeper.
fn end(held: &Held, record: &Record) -> Result<(), OciError> {
    let Some(keeper) = held.folder.keeper_process() else { return Ok(()) };
    match kill::kill(record, Signal::SIGKILL as i32, true) {
        // One that has just ended is being cleared away by its keeper.
        Ok(()) | Err(OciError::NotRunning) => end_keeper(&keeper, KEEPER_TIME),
        // A guest that does not answer.
        Err(_) => end_keeper(&keeper, Duration::ZERO),
    }
}

/// Waits for a keeper's end, and kills it where that takes too long, as where nobody takes what its
/// container wrote. Its monitor dies with it.
fn end_keeper(keeper: &Process, patience: Duration) -> Result<(), OciError> {
    if !keeper.ends_within(Some(patience)).map_err(host("wait for the container's end"))? {
        // Fails only where it has ended.
        let _ = keeper.signal(Signal::SIGKILL);
        keeper.ends_within(None).map_err(host("wait for the container's end"))?;
    }
    Ok(())
}

/// Clears away what a keeper that was killed could not.
fn sweep(record: &Record) -> Result<(), OciError> {
    Registry::new(&record.places).sweep().map_err(SandboxError::from)?;
    for group in &record.cgroups {
        cgroup::remove(group)?;
    }
    Ok(())
}

/// Clears away what a killed keeper has left of a network. It is in nobody's way but that network's:
/// that it cannot be done is told, and changes nothing.
fn clear_network(global: &Global, config: Option<&Spec>) {
    if let Some(Err(error)) = config.map(network::clear) {
        global.log().warn(&crate::report::chain(&error));
    }
}

/// Removes what there is of a container that never was one.
pub fn remains(global: &Global, held: Held) -> Result<(), OciError> {
    if let Some(keeper) = held.folder.keeper_process() {
        // It has no command to speak to any more and ends by itself, unless a hook keeps it.
        end_keeper(&keeper, KEEPER_TIME)?;
    }
    Registry::new(&global.places()).sweep().map_err(SandboxError::from)?;
    if let Some(group) = held.folder.read_cgroup() {
        cgroup::remove(&group)?;
    }
    clear_network(global, held.folder.read_config().ok().as_ref());
    held.remove()
}
