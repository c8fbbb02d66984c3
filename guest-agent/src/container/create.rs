//! `Create`: a container and its first process, up to the point where that waits for the start.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ampoule_protocol::message::{Create, INIT, RootfsSource};
use nix::sched::CloneFlags;

use super::launch::{Launch, launch};
use super::process::Process;
use super::state::State;
use super::stdio::Stdio;
use super::{Container, Processes, delete, name};
use crate::cgroup::{Cgroup, devices, limits};
use crate::error::Result;
use crate::setup::{Ids, Job};
use crate::{Agent, spec};

/// Makes a container; the pid of its first process. `body` is the request as it came.
pub fn create(agent: &'static Agent, request: Create, body: Vec<u8>) -> Result<i32> {
    name::check("container", &request.container)?;
    let process = spec::check(&request.spec)?;
    let resources = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.map_or_else(|| Ok(limits::Plan::default()), limits::plan)?;
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    let rules = devices::Rules::new(rules.unwrap_or_default())?;
    let stdio = Stdio::new(&request.stdio, process.terminal().unwrap_or(false))?;

    let disk = match &request.rootfs.source {
        RootfsSource::Block { serial, .. } => Some(agent.disks.find(serial)?),
        RootfsSource::Directory { .. } | RootfsSource::Share { .. } => None,
    };
    agent.shares.mount_for(&request)?;
    let owner = cgroup_owner(&request)?;

    let container = Arc::new(Container {
        cgroup: Cgroup::of_container(&request.container),
        namespaces: spec::Namespaces::of(&request.spec)?.all().bits(),
        name: request.container,
        request: body,
        state: Mutex::new(State::Creating),
        control: Mutex::default(),
        processes: Mutex::new(Processes::default()),
    });
    agent.containers.add(container.clone())?;
    let made = container.cgroup.create().and_then(|()| {
        container.cgroup.apply(&limits)?;
        owner.map_or(Ok(()), |owner| container.cgroup.delegate(owner))
    });
    let created = made.and_then(|()| populate(agent, &container, &rules, stdio, disk));
    if created.is_err() {
        // The first failure is the one to tell.
        let _ = delete::discard(agent, &container);
    }
    created
}

/// Who may make groups below the container's: its user, where it has a cgroup namespace of its own
/// and sees its group writable (section "Cgroup ownership" of the specification).
fn cgroup_owner(request: &Create) -> Result<Option<u32>> {
    let spec = &request.spec;
    let is_writable = spec.mounts().iter().flatten().any(|mount| {
        mount.destination() == Path::new("/sys/fs/cgroup")
            && matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && !mount.options().iter().flatten().any(|option| option == "ro")
    });
    let namespaces = spec::Namespaces::of(spec)?;
    let (Some(process), None, true) = (spec.process(), &request.user, is_writable) else {
        return Ok(None);
    };
    if !namespaces.new.contains(CloneFlags::CLONE_NEWCGROUP) {
        return Ok(None);
    }
    let uid = process.user().uid();
    if !namespaces.new.contains(CloneFlags::CLONE_NEWUSER) {
        return Ok(Some(uid));
    }
    let mappings = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_deref());
    Ok(Ids::new("linux.uidMappings", mappings)?.outside(uid))
}

fn populate(
    agent: &'static Agent,
    container: &Arc<Container>,
    rules: &devices::Rules,
    stdio: Stdio,
    disk: Option<PathBuf>,
) -> Result<i32> {
    agent.watcher.watch_memory(&container.name, &container.cgroup);
    let on_exit = {
        let container = container.clone();
        move |process: &Process, code| container.init_exited(process, code)
    };
    let launched = Launch {
        job: Job::Create { disk },
        requests: &[&container.request],
        cgroup: &container.cgroup,
        join: None,
        stdio,
    };
    let (process, control) = launch(agent, launched, on_exit)?;
    container.add_process(INIT, process.clone())?;
    // The setup stage itself may use more: it has mounted the root file system's disk.
    container.cgroup.restrict_devices(rules)?;
    *container.control() = Some(control);
    container.state().created();
    Ok(process.pid())
}
