//! The guest of a shim, as its tasks use it: containers made and removed in it, and questions asked.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ampoule_protocol::message::{
    Create, HookState, Pod, Reply, Request, Rootfs as GuestRootfs, RootfsSource, WritableLayer,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use oci_spec::runtime::{LinuxResources, Spec};

use super::disks::{self, Disks, Plugged};
use super::error::{ShimError, host};
use super::forward::Forward;
use super::keeper::{Facts, Keeper, Wanted};
use super::lock;
use super::network::{Found, Network};
use super::process::Process;
use super::rootfs::{Mounted, Rootfs};
use super::spec::{self, Kind};
use super::stdio::{Paths, Pipes};
use super::telling;
use crate::agent::{Client, EXCHANGE_TIME};
use crate::clock::now_us;
use crate::oci::{self, Bundle, cgroup};
use crate::report::chain;
use crate::sandbox::about::{About, By, Contained, Told};
use crate::sandbox::container::{self, Running, Then};
use crate::sandbox::launch::Backing;
use crate::sandbox::monitored::wait;
use crate::sandbox::streams::Streams;
use crate::sandbox::trace;
use crate::sandbox::{Config, Places, SHARE, SandboxError, Shape, SharedTree};

/// See the module.
#[derive(Debug)]
pub struct Sandbox {
    keeper: Keeper,
    facts: Facts,
    shape: Shape,
    /// What the guest sees of the host.
    tree: SharedTree,
    network: Network,
    disks: Disks,
    forward: Mutex<Option<Forward>>,
    /// What others are told of it.
    told: Option<Arc<Told>>,
    /// Containers that were made so far: they are told apart by their numbers.
    made: AtomicU32,
    /// Control groups of the host that were made for it.
    groups: Mutex<Vec<PathBuf>>,
}

/// What the guest sees of the host for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Names of directories and files in the tree.
    pub shares: Vec<String>,
    /// Slots of disks.
    pub disks: Vec<u8>,
}

/// A container that is wanted.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// Its id.
    pub id: &'a str,
    /// What it is.
    pub kind: &'a Kind,
    /// Its bundle.
    pub bundle: &'a Bundle,
    /// Where its input comes from and its output goes.
    pub paths: &'a Paths,
    /// Its root file system.
    pub rootfs: Rootfs,
}

/// A container that is there, and waits for its start.
#[derive(Debug)]
pub struct Made {
    /// Its name in the guest.
    pub container: String,
    /// Its first process.
    pub running: Running,
    /// The input of that.
    pub pipes: Pipes,
    /// What the guest sees of the host for it.
    pub seen: Seen,
    /// Its root file system, where it was mounted for it.
    pub mounted: Option<Mounted>,
}

impl Sandbox {
    /// Starts the sandbox of a pod, or of a container that is alone. `died` is called if it ends by itself.
    pub fn start(
        places: Places,
        id: &str,
        bundle: &Bundle,
        kind: &Kind,
        died: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self, ShimError> {
        let mut moments = telling::moments();
        let spec = &bundle.spec;
        let shape = match kind {
            Kind::Pod => spec::pod_shape(spec, &Config::load()?)?,
            Kind::Alone | Kind::PodContainer { .. } => oci::size(spec)?.0.for_pod(),
        };
        let tree = SharedTree::new().map_err(SandboxError::from)?;
        let groups = enter_group(spec)?;
        let name = spec.hostname().clone().filter(|name| !name.is_empty());
        let hostname = name.unwrap_or_else(|| "ampoule".into());
        let backing = Backing {
            top: Some(tree.top().clone()),
            callers_group: !groups.is_empty(),
            ..Backing::default()
        };
        let wanted = Wanted { places, shape: shape.clone(), backing, hostname: hostname.clone() };
        // The one waits for the host's kernel, the other for the guest.
        let (found, kept) = thread::scope(|scope| {
            let found = scope.spawn(|| Found::named(spec));
            let kept = Keeper::start(wanted, died);
            (found.join(), kept)
        });
        let (keeper, facts) = kept?;
        let found = found.map_err(|_| host("join the network")(Errno::EINVAL))??;
        let sysctls = spec.linux().as_ref().and_then(|linux| linux.sysctl().clone());
        let sysctls = sysctls.unwrap_or_default().into_iter().collect();
        let mut agent = Client::open(&facts.vsock, EXCHANGE_TIME)?;
        agent.call(&Request::Pod(Box::new(Pod { hostname, sysctls })))?;
        let network = Network::start(found, facts.pid.unsigned_abs(), &keeper)?;
        moments.ready_us = facts.ready_us;
        moments.joined_us = now_us();
        moments.warm = facts.warm;
        let told = facts.folder.clone().map(|folder| {
            let mut about = About::new(By::Shim, id, facts.pid);
            (about.pod, about.moments) = (spec::pod(spec), moments);
            telling::tell(folder, about)
        });
        let (made, groups) = (AtomicU32::new(0), Mutex::new(groups));
        let (disks, forward) = (Disks::default(), Mutex::default());
        Ok(Self { keeper, facts, shape, tree, network, disks, forward, told, made, groups })
    }

    /// Lets whoever connects to the pod's loopback interface in its namespace on the host reach the
    /// guest's. A host that cannot do that is one whose pods' ports are not forwarded.
    pub fn forward_ports(&self, namespace: &Path) {
        match Forward::start(namespace, self.vsock()) {
            Ok(forward) => *lock(&self.forward) = Some(forward),
            Err(error) => log::warn!("ports cannot be forwarded to the pod: {error}"),
        }
    }

    /// Lets the guest have the interfaces that have come to its namespace since.
    pub fn rescan_network(&self) -> Result<(), ShimError> {
        self.network.rescan(&self.keeper)
    }

    /// Pid of the monitor.
    pub fn pid(&self) -> u32 {
        self.facts.pid.unsigned_abs()
    }

    /// The socket of the guest.
    pub fn vsock(&self) -> &Path {
        &self.facts.vsock
    }

    /// Asks the agent something, and takes its answer.
    pub fn ask(&self, request: &Request) -> Result<Reply, ShimError> {
        Ok(Client::open(self.vsock(), EXCHANGE_TIME)?.ask(request)?)
    }

    /// Asks the agent something that it answers when it happens.
    pub fn ask_patiently(&self, request: &Request) -> Result<Reply, ShimError> {
        let mut agent = Client::open(self.vsock(), EXCHANGE_TIME)?;
        agent.send(request)?;
        wait(&mut [PollFd::new(agent.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        Ok(agent.receive()?)
    }

    /// Asks the agent to do something, and waits until it is done.
    pub fn call(&self, request: &Request) -> Result<(), ShimError> {
        Ok(Client::open(self.vsock(), EXCHANGE_TIME)?.call(request)?)
    }

    /// Makes a container, up to the point where its first process waits for the start. On failure
    /// nothing of it is left.
    pub fn create(&self, new: NewContainer<'_>) -> Result<Made, ShimError> {
        let _span = trace::begin("container created", new.id);
        let container = format!("c{}", self.made.fetch_add(1, Ordering::Relaxed));
        let mut seen = Seen::default();
        let contained = Contained {
            id: new.id.to_owned(),
            name: spec::container_name(&new.bundle.spec).unwrap_or(new.id).to_owned(),
            guest: container.clone(),
        };
        match self.make(new, &container, &mut seen) {
            Ok((running, pipes, mounted)) => {
                self.tell(|about| about.containers.push(contained));
                Ok(Made { container, running, pipes, seen, mounted })
            }
            Err(error) => {
                self.take_back(&seen);
                Err(error)
            }
        }
    }

    fn make(
        &self,
        new: NewContainer<'_>,
        container: &str,
        seen: &mut Seen,
    ) -> Result<(Running, Pipes, Option<Mounted>), ShimError> {
        let NewContainer { id, kind, bundle, paths, rootfs } = new;
        let mut spec = bundle.spec.clone();
        if let Some(process) = spec.process_mut() {
            process.set_terminal(Some(paths.terminal));
        }
        let parts = spec::set_aside(&mut spec, kind)?;
        let volumes = disks::take_volumes(&mut spec);
        let translated = oci::translate(spec, &bundle.path, &format!("{container}."), oci::look)?;
        for warning in &translated.warnings {
            log::warn!("container {id}: {warning}");
        }
        let mut spec = translated.spec;
        parts.put_back(&mut spec);
        let on_disk = matches!(rootfs, Rootfs::Disk(_));
        for (name, share) in &translated.shares {
            if on_disk && Path::new(name) == translated.rootfs {
                continue;
            }
            self.tree.add(name, share).map_err(SandboxError::from)?;
            seen.shares.push(name.clone());
        }
        let mut block_devices = Vec::new();
        for volume in &volumes {
            let plugged = self.plug(&volume.path()?, volume.read_only(), seen)?;
            block_devices.push(volume.device(&plugged));
        }
        let (rootfs, mounted) = self.rootfs(rootfs, translated.rootfs, seen)?;
        let (ends, mut pipes) = paths.open()?;
        let create = Create {
            container: container.to_owned(),
            spec: Box::new(spec),
            identity: HookState { id: id.to_owned(), bundle: bundle.path.clone() },
            rootfs,
            block_devices,
            files: Vec::new(),
            networked: false,
            user: None,
            stdio: Streams::names(&format!("{container}-init"), &ends, paths.terminal),
        };
        let starting = container::start(self.vsock(), create, None, None, Then::Wait)?;
        let mut running = starting.finish(&ends, || {}, answered)?;
        pipes.lead_to(running.streams.take_input());
        Ok((running, pipes, mounted))
    }

    /// The root file system as the guest mounts it.
    fn rootfs(
        &self,
        rootfs: Rootfs,
        shared: PathBuf,
        seen: &mut Seen,
    ) -> Result<(GuestRootfs, Option<Mounted>), ShimError> {
        let disk = match rootfs {
            Rootfs::Directory(mounted) => {
                let source = RootfsSource::Share { tag: SHARE.into(), path: shared };
                return Ok((GuestRootfs { source, writable: WritableLayer::Source }, mounted));
            }
            Rootfs::Disk(disk) => disk,
        };
        let Plugged { serial, sectors, .. } = self.plug(&disk.path, disk.read_only, seen)?;
        let source = RootfsSource::Block {
            serial,
            fstype: disk.fstype,
            sectors: Some(sectors),
            options: disk.options,
        };
        let writable = if disk.read_only { WritableLayer::None } else { WritableLayer::Source };
        Ok((GuestRootfs { source, writable }, None))
    }

    fn plug(&self, path: &Path, read_only: bool, seen: &mut Seen) -> Result<Plugged, ShimError> {
        let plugged = self.disks.plug(&self.keeper, path, read_only)?;
        seen.disks.push(plugged.slot);
        Ok(plugged)
    }

    /// Removes a container whose first process this is, and what it saw of the host.
    pub fn delete(&self, init: &Process, seen: &Seen) -> Result<(), ShimError> {
        let container = init.guest()?.container.clone();
        self.tell(|about| about.containers.retain(|contained| contained.guest != container));
        let deleted = self.call(&Request::Delete { container });
        self.take_back(seen);
        deleted
    }

    /// Tells others what has changed.
    fn tell(&self, change: impl FnOnce(&mut About)) {
        if let Some(told) = &self.told {
            told.change(change);
        }
    }

    fn take_back(&self, seen: &Seen) {
        let shares = seen.shares.iter();
        let removed = shares.map(|name| {
            self.tree.remove(name).map_err(|error| ShimError::from(SandboxError::from(error)))
        });
        let unplugged = seen.disks.iter().map(|slot| self.disks.unplug(&self.keeper, *slot));
        for result in removed.chain(unplugged) {
            if let Err(error) = result {
                log::error!("{}", chain(&error));
            }
        }
    }

    /// Refuses limits that the machine is too small for, and leaves out what is the host's.
    pub fn check_limits(&self, resources: &mut LinuxResources) -> Result<(), ShimError> {
        if let Some(cpu) = resources.cpu_mut() {
            // The machine has processors and memory nodes of its own.
            cpu.set_cpus(None).set_mems(None);
        }
        let limit = resources.memory().as_ref().and_then(|memory| memory.limit());
        let most = u64::from(self.shape.memory_mib) << 20;
        match limit.and_then(|limit| u64::try_from(limit).ok()) {
            Some(limit) if limit > most => Err(ShimError::WrongState(format!(
                "a limit of {limit} bytes is beyond the sandbox's memory of {most}, which it was \
                 started with"
            ))),
            _ => Ok(()),
        }
    }

    /// Ends the guest, and clears away what it had of the host's.
    pub fn end(&self) -> Result<(), ShimError> {
        lock(&self.forward).take();
        let ended = self.keeper.end();
        // The taps are free now.
        let ended = self.network.leave().and(ended);
        let groups = std::mem::take(&mut *lock(&self.groups));
        for group in groups {
            // The shim itself is in it.
            cgroup::enter(Path::new("/"), false, |_| Ok(()))
                .and_then(|_| cgroup::remove(&group))
                .unwrap_or_else(|error| log::error!("{}", chain(&error)));
        }
        ended
    }
}

/// Waits until the guest answers, but not for ever.
fn answered(fd: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let timeout = PollTimeout::try_from(EXCHANGE_TIME).unwrap_or(PollTimeout::MAX);
    match wait(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout)? {
        Some(_) => Ok(()),
        None => Err(SandboxError::NotReady(EXCHANGE_TIME.as_secs())),
    }
}

/// The group of the host that a sandbox is to be counted in, as a `config.json` names it; and whether it
/// is named as systemd's are.
fn group_name(spec: &Spec) -> Option<(PathBuf, bool)> {
    let named = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let name = named.filter(|name| !name.as_os_str().is_empty())?;
    // `slice:prefix:name`, where all others are paths.
    let systemd = name.to_string_lossy().split(':').count() == 3;
    Some((name, systemd))
}

/// Moves this process there; what was made of it.
fn enter_group(spec: &Spec) -> Result<Vec<PathBuf>, ShimError> {
    Ok(match group_name(spec) {
        Some((name, systemd)) => cgroup::enter(&name, systemd, |_| Ok(()))?,
        None => Vec::new(),
    })
}

/// Where the group of a sandbox is.
pub fn group(spec: &Spec) -> Result<Option<PathBuf>, ShimError> {
    Ok(group_name(spec).map(|(name, systemd)| cgroup::place(&name, systemd)).transpose()?)
}
