//! `Create`: a container and its first process, up to the point where that waits for the start.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ampoule_protocol::message::{Create, INIT, RootfsSource, WritableLayer};
use nix::sched::CloneFlags;

use super::launch::{Launch, Launched, launch};
use super::layer::Layer;
use super::process::Process;
use super::state::State;
use super::stdio::Stdio;
use super::{Container, Processes, delete, files, name};
use crate::cgroup::{Cgroup, devices, limits};
use crate::error::{Doing, Error, Result};
use crate::setup::{Ids, Job, check_rootfs};
use crate::{Agent, pod, shares, spec};

/// Makes a container; the pid of its first process. `body` is the request as it came.
pub fn create(agent: &'static Agent, request: Create, body: Vec<u8>) -> Result<i32> {
    name::check("container", &request.container)?;
    let process = spec::check(&request.spec)?;
    check_rootfs(&request.rootfs)?;
    let resources = request.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.map_or_else(|| Ok(limits::Plan::default()), limits::plan)?;
    let rules = resources.and_then(|resources| resources.devices().as_deref());
    let mut rules = devices::Rules::new(rules.unwrap_or_default())?;
    let stdio = Stdio::new(&request.stdio, process.terminal().unwrap_or(false))?;

    let disks = Found::of(agent, &request)?;
    for (device, number) in request.block_devices.iter().zip(&disks.numbers) {
        rules.allow_disk(*number, device.read_only);
    }
    agent.shares.mount_for(&request)?;
    let namespaces = spec::Namespaces::of(&request.spec)?;
    if namespaces.joined.iter().any(spec::Joined::is_pods_pid) {
        pod::with_pids(agent)?;
    }
    let owner = cgroup_owner(&request)?;
    files::check(&request.files)?;
    let shares = shares::entries(&request.rootfs, &request.spec)?;

    let network = prepared_network(agent, &request, &namespaces);
    let own_files = request.files;
    let container = Arc::new(Container {
        cgroup: Cgroup::of_container(&request.container),
        namespaces: namespaces.all().bits(),
        name: request.container,
        request: body,
        shares,
        disks: disks.plugged,
        state: Mutex::new(State::Creating),
        control: Mutex::default(),
        layer: Mutex::default(),
        processes: Mutex::new(Processes::default()),
    });
    agent.containers.add(container.clone())?;
    let made = container.cgroup.create().and_then(|()| {
        container.cgroup.apply(&limits)?;
        owner.map_or(Ok(()), |owner| container.cgroup.delegate(owner))?;
        files::write(&container.name, &own_files)
    });
    let job = Job::Create {
        disk: disks.root,
        layer: disks.layer,
        block_devices: disks.numbers,
        network: network.is_some(),
    };
    let work = Work { job, network, stdio };
    let created = made.and_then(|()| populate(agent, &container, &rules, work));
    if created.is_err() {
        // The first failure is the one to tell.
        let _ = delete::discard(agent, &container);
    }
    created
}

/// The disks that a container needs.
struct Found {
    /// The root file system's.
    root: Option<PathBuf>,
    /// The writable layer's.
    layer: Option<PathBuf>,
    /// Numbers of those that it has as devices, in the request's order.
    numbers: Vec<libc::dev_t>,
    /// Those that were plugged in, and will be taken out again.
    plugged: Vec<PathBuf>,
}

impl Found {
    fn of(agent: &Agent, request: &Create) -> Result<Self> {
        let mut found = Self { root: None, layer: None, numbers: Vec::new(), plugged: Vec::new() };
        if let RootfsSource::Block { serial, sectors, .. } = &request.rootfs.source {
            let node = agent.disks.find(serial, *sectors)?;
            found.plugged.extend(sectors.map(|_| node.clone()));
            found.root = Some(node);
        }
        if let WritableLayer::Disk { serial, sectors } = &request.rootfs.writable {
            let node = agent.disks.find(serial, *sectors)?;
            found.plugged.extend(sectors.map(|_| node.clone()));
            found.layer = Some(node);
        }
        let count = request.block_devices.len();
        if count > Create::MAX_BLOCK_DEVICES {
            return Err(Error::Invalid(format!("{count} disks as devices")));
        }
        for device in &request.block_devices {
            if !device.path.is_absolute() {
                return Err(Error::Invalid(format!("device {}", device.path.display())));
            }
            let node = agent.disks.find(&device.serial, device.sectors)?;
            let metadata = node.metadata().doing(|| format!("look at {}", node.display()))?;
            found.numbers.push(metadata.rdev());
            found.plugged.extend(device.sectors.map(|_| node));
        }
        Ok(found)
    }
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

/// What the setup stage gets.
struct Work {
    job: Job,
    network: Option<File>,
    stdio: Stdio,
}

/// The network namespace that is ready, for a container that would make one like it: it may not belong to another
/// user namespace, and what the spec sets there by name holds for interfaces that come later.
fn prepared_network(
    agent: &Agent,
    request: &Create,
    namespaces: &spec::Namespaces,
) -> Option<File> {
    let makes = |kind| namespaces.new.contains(kind);
    let sysctls = request.spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let tunes = sysctls.is_some_and(|all| all.keys().any(|name| name.starts_with("net")));
    let like_it = makes(CloneFlags::CLONE_NEWNET) && !makes(CloneFlags::CLONE_NEWUSER) && !tunes;
    if request.networked && like_it { agent.prepared.give_to(&request.container) } else { None }
}

fn populate(
    agent: &'static Agent,
    container: &Arc<Container>,
    rules: &devices::Rules,
    work: Work,
) -> Result<i32> {
    agent.watcher.watch_memory(&container.name, &container.cgroup);
    let on_exit = {
        let container = container.clone();
        move |process: &Process, code| container.init_exited(process, code)
    };
    let launched = Launch {
        job: work.job,
        requests: &[&container.request],
        cgroup: &container.cgroup,
        join: None,
        network: work.network,
        stdio: work.stdio,
    };
    let Launched { process, control, layer } = launch(agent, launched, on_exit)?;
    container.add_process(INIT, process.clone())?;
    // The setup stage itself may use more: it has mounted the root file system's disk.
    container.cgroup.restrict_devices(rules)?;
    *container.control() = Some(control);
    *container.layer() = layer.map(Layer::new);
    let mut state = container.state();
    state.created();
    if *state == State::Stopped {
        // What was done at its end came before the layer was known.
        container.layer().take();
    }
    Ok(process.pid())
}
