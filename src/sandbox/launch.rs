//! Starts a sandbox: its folder and its monitor, cold from the kernel on or warm from a template.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_protocol::message::{NetworkNamespace, Request};

use super::error::SandboxError;
use super::fork::{Fork, Frozen};
use super::guest::GuestFiles;
use super::layer::Layers;
use super::limits::on_processors;
use super::monitored::{Backend, Monitored, Nic};
use super::mounts::Mounted;
use super::network::Attached;
use super::places::Places;
use super::rates::NetRates;
use super::record::Record;
use super::registry::{Kept, Registry};
use super::shape::Shape;
use super::spec;
use super::state::State;
use super::template::{self, Template};
use super::timings::Timings;
use crate::agent::{Client, EXCHANGE_TIME, ReadyListener};
use crate::clock::now_us;
use crate::image::Image;
use crate::monitor::control::{MonitorRequest, Start, TouchedPages};
use crate::monitor::group;
use crate::network::Interface;
use crate::vmm::config::{DiskConfig, Export, FsConfig, VsockConfig};
use crate::vmm::host::Opened;
use crate::vmm::rate::RateLimiter;
use crate::vmm::snapshot::state::Plugs;

/// Serial number of the disk that holds the image.
pub const IMAGE_DISK: &str = "image";

/// Serial number of the disk that holds what the container writes.
pub const LAYER_DISK: &str = "layer";

/// Tag of the file system that holds what a container sees of the host's directories.
pub const SHARE: &str = "host";

/// Context id of every guest: a sandbox's vsock is its own, so they need not differ.
pub const GUEST_CID: u64 = 3;

/// What of the host's is plugged into a guest.
#[derive(Debug, Clone, Default)]
pub struct Backing {
    /// Disks, the first slots'; those behind stay empty.
    pub disks: Vec<DiskConfig>,
    /// What the guest finds in the file system [`SHARE`].
    pub export: Option<Export>,
    /// The top of a tree ([`super::shares::SharedTree`]) in that place, whose entries come and go.
    pub top: Option<Arc<OwnedFd>>,
    /// The monitor is in this process's control group, and has none of its own.
    pub callers_group: bool,
    /// Where the monitor's own is to be, if somebody has said that.
    pub group_parent: Option<PathBuf>,
}

impl Backing {
    fn shares(&self) -> Vec<FsConfig> {
        let (export, opened) = match &self.top {
            Some(top) => (Some(Export::Given), Opened::shared(top.clone())),
            None => (self.export.clone(), Opened::default()),
        };
        vec![FsConfig { tag: SHARE.to_owned(), export, opened }]
    }
}

/// A sandbox's folder and guest, whose keeper is this process. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Machine {
    registry: Registry,
    /// `None` once it is cleared away.
    kept: Option<Kept>,
    /// Its folder goes with it. A container's is its keeper's to clear away.
    clears: bool,
    /// Its guest.
    pub guest: Monitored,
}

/// A sandbox that other commands know by a name. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Sandbox {
    /// Its folder and guest.
    pub machine: Machine,
    /// What other commands read of it.
    pub state: State,
    /// What its container has mounted.
    pub mounted: Mounted,
    /// What its container has of networks.
    pub attached: Attached,
}

/// How a sandbox came to life.
#[derive(Debug)]
pub enum Launched {
    /// Its kernel boots; its agent will connect here.
    Cold(ReadyListener),
    /// It was restored: its agent listens already, and is to be woken.
    Warm,
}

impl Machine {
    /// Makes the folder of a sandbox without a name and starts its guest.
    pub fn start(
        places: &Places,
        shape: &Shape,
        backing: Backing,
        template: Option<&Template>,
    ) -> Result<(Self, Launched), SandboxError> {
        let registry = Registry::new(places);
        let kept = registry.create_unnamed()?;
        match start(&kept, shape, backing, template) {
            Ok((guest, launched)) => {
                Ok((Self { registry, kept: Some(kept), clears: true, guest }, launched))
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = registry.remove(kept);
                Err(error)
            }
        }
    }

    /// Starts the guest of a container: with its image, its disk, and what it has mounted.
    pub fn of_image(
        places: &Places,
        container: &Container<'_>,
        image: &Image,
        template: Option<&Template>,
    ) -> Result<(Self, Launched, Mounted), SandboxError> {
        let options = &container.record.options;
        let mounted = Mounted::prepare(places, &options.mounts)?;
        let kept = container.kept;
        let mut disks = vec![disk(&image.rootfs)];
        if let Some(size) = options.layer_size {
            disks.push(layer_disk(Layers::new(places).of(&kept.id, size)?));
        }
        limit(&mut disks, options.rates.disk);
        let export = (!mounted.shares.is_empty()).then(|| Export::Tree(mounted.shares.clone()));
        let group_parent = options.cgroup_parent.clone();
        let backing = Backing { disks, export, group_parent, ..Backing::default() };
        let start = || start(kept, &options.shape(), backing, template);
        let (guest, launched) = on_processors(&options.limits.cpuset, start)??;
        Ok((Self::of_container(places, kept, guest), launched, mounted))
    }

    /// That of a container, whose folders stay.
    fn of_container(places: &Places, kept: &Kept, guest: Monitored) -> Self {
        let registry = Registry::new(places);
        Self { registry, kept: Some(kept.clone()), clears: false, guest }
    }

    /// The sandbox's folder.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// The Unix socket behind which the guest's vsock ports are.
    pub fn vsock(&self) -> PathBuf {
        self.kept().map(|kept| kept.folder.vsock()).unwrap_or_default()
    }

    /// Gives interfaces that were joined to the guest: their taps to its monitor, which has them from here
    /// on, and what they are like to its agent.
    pub fn give(
        &mut self,
        namespace: NetworkNamespace,
        interfaces: Vec<Interface>,
    ) -> Result<(), SandboxError> {
        if interfaces.is_empty() {
            return Ok(());
        }
        for Interface { guest, tap } in &interfaces {
            let backend = Backend::Tap(vec![tap.as_fd()]);
            let nic = Nic { mac: Some(guest.mac), backend, rates: &NetRates::NONE };
            self.guest.plug_net(guest.slot, nic).map_err(|error| SandboxError::Interface {
                name: guest.name.clone(),
                source: Box::new(error),
            })?;
        }
        // Not held here any more: whoever looks whether the monitor lives looks at the taps.
        let interfaces = interfaces.into_iter().map(|interface| interface.guest).collect();
        let mut agent = Client::open(&self.vsock(), EXCHANGE_TIME)?;
        Ok(agent.call(&Request::Network { namespace, interfaces })?)
    }

    /// Clears away what killed keepers have left of other sandboxes.
    pub fn sweep(&self) -> Result<(), SandboxError> {
        Ok(self.registry.sweep()?)
    }

    /// Ends the guest and clears everything away.
    pub fn end(mut self) -> Result<(), SandboxError> {
        self.guest.end()?;
        self.clear_away()
    }

    fn clear_away(&mut self) -> Result<(), SandboxError> {
        match self.kept.take() {
            Some(kept) if self.clears => Ok(self.registry.remove(kept)?),
            _ => Ok(()),
        }
    }
}

impl AsFd for Machine {
    /// Readable when its monitor has something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.guest.as_fd()
    }
}

impl Drop for Machine {
    /// A start that failed, or a keeper that cannot go on: the machine ends, nothing stays.
    fn drop(&mut self) {
        if self.kept.is_some() {
            let _ = self.guest.end();
            let _ = self.clear_away();
        }
    }
}

impl Sandbox {
    /// Starts the monitor of a container whose keeper this process is; the guest runs from here on.
    pub fn launch(
        places: &Places,
        container: &Container<'_>,
        image: &Image,
        template: Option<&Template>,
    ) -> Result<(Self, Launched), SandboxError> {
        let command = spec::command(&image.config, &container.record.options)?;
        let (machine, launched, mounted) = Machine::of_image(places, container, image, template)?;
        let from = From { rootfs: image.rootfs.clone(), command, mounted };
        Ok((Self::write(machine, container, from)?, launched))
    }

    /// Restores the guest of a fork, which is to be woken.
    pub fn fork(
        places: &Places,
        container: &Container<'_>,
        fork: &Fork,
        frozen: &Frozen,
    ) -> Result<Self, SandboxError> {
        let snapshot = [frozen.state.as_fd(), frozen.memory.as_fd()];
        // Named here, and not by what the guest was written down with: nothing of that is looked at
        // before the monitor has given up all rights.
        let mut disks = vec![disk(&fork.rootfs)];
        if let Some(layer) = &frozen.layer {
            disks.push(layer_disk(Layers::new(places).copy(layer, &container.kept.id)?));
        }
        limit(&mut disks, container.record.options.rates.disk);
        let backing = Backing { disks, ..Backing::default() };
        let group = Some(frozen.size().into());
        let guest = resume(container.kept, group, backing, &snapshot, TouchedPages::Ignored)?;
        let machine = Machine::of_container(places, container.kept, guest);
        let (rootfs, command) = (fork.rootfs.clone(), fork.command.clone());
        Self::write(machine, container, From { rootfs, command, mounted: Mounted::default() })
    }

    /// With its first state, which is written while the guest starts.
    fn write(
        machine: Machine,
        container: &Container<'_>,
        from: From,
    ) -> Result<Self, SandboxError> {
        let From { rootfs, command, mounted } = from;
        let mut state = container.first_state(command, rootfs)?;
        state.monitor = Some(machine.guest.pid());
        let attached = Attached::default();
        let sandbox = Self { machine, state, mounted, attached };
        sandbox.write_state()?;
        Ok(sandbox)
    }

    /// Asks the monitor when the machine started, and waits for its answer.
    pub fn take_timings(&mut self) -> Result<(), SandboxError> {
        self.machine.guest.ask(MonitorRequest::Timings, &[])
    }

    /// Writes the state down.
    pub fn write_state(&self) -> Result<(), SandboxError> {
        let Some(kept) = self.machine.kept() else {
            return Ok(());
        };
        Ok(self.state.write(&kept.folder.state())?)
    }

    /// Ends the machine; what is left of the container is its keeper's.
    pub fn end(mut self) -> Result<(State, Timings), SandboxError> {
        self.machine.guest.end()?;
        if let Some(kept) = self.machine.kept.take() {
            kept.folder.remove_guest_sockets();
        }
        self.attached.close()?;
        self.state.networks.clear();
        self.state.joined.clear();
        self.machine.guest.timings.cleared_us = now_us();
        Ok((self.state, std::mem::take(&mut self.machine.guest.timings)))
    }
}

/// What a container is begun with.
struct From {
    rootfs: PathBuf,
    command: Vec<String>,
    mounted: Mounted,
}

/// A container that this process keeps.
#[derive(Debug)]
pub struct Container<'a> {
    /// Its folders.
    pub kept: &'a Kept,
    /// What it is.
    pub record: &'a Record,
    /// How it was before, where it is started again.
    pub before: Option<&'a State>,
}

impl Container<'_> {
    /// The state that it begins with; the record of a new one is written down.
    pub fn first_state(
        &self,
        command: Vec<String>,
        rootfs: PathBuf,
    ) -> Result<State, SandboxError> {
        let Self { kept, record, before } = self;
        let options = &record.options;
        let (id, name) = (kept.id.clone(), kept.name.clone());
        let mut state = State::new(id, name, options.image.clone(), command);
        state.created = record.created;
        state.rootfs = rootfs;
        state.terminal = options.terminal;
        state.remove = options.remove;
        state.mounts = options.mounts.clone();
        state.layer = options.layer_size.is_some();
        if let Some(before) = before {
            state.restarts = before.restarts;
            // How it last ended stays known to those who wait for it.
            state.exit_code = before.exit_code;
        }
        state.keeper = Some(nix::unistd::getpid().as_raw());
        if kept.fresh && before.is_none() {
            kept.write_record(record)?;
        }
        Ok(state)
    }
}

impl AsFd for Sandbox {
    /// Readable when its monitor has something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.machine.as_fd()
    }
}

/// Starts the guest of a sandbox that this process keeps, from a template where there is one.
pub fn start(
    kept: &Kept,
    shape: &Shape,
    backing: Backing,
    template: Option<&Template>,
) -> Result<(Monitored, Launched), SandboxError> {
    let group = (!backing.callers_group)
        .then(|| group::Wanted { size: shape.size(), parent: backing.group_parent.clone() });
    match template {
        Some(template) => {
            let mut snapshot = vec![template.state.as_fd(), template.memory.as_fd()];
            snapshot.extend(template.touched.as_ref().map(AsFd::as_fd));
            let touched = match template.touched {
                Some(_) => TouchedPages::Known,
                None => TouchedPages::Watched,
            };
            Ok((resume(kept, group, backing, &snapshot, touched)?, Launched::Warm))
        }
        None => boot(kept, group, shape, backing),
    }
}

fn boot(
    kept: &Kept,
    group: Option<group::Wanted>,
    shape: &Shape,
    backing: Backing,
) -> Result<(Monitored, Launched), SandboxError> {
    let files = GuestFiles::find(shape.kernel.as_deref())?;
    let vsock = kept.folder.vsock();
    let listener = ReadyListener::bind(&vsock)
        .map_err(SandboxError::host("cannot listen for the guest's agent"))?;
    let mut machine = template::machine(&files, shape, &vsock);
    machine.shares = backing.shares();
    if backing.disks.len() > machine.disks.len() {
        return Err(SandboxError::Machine("it has fewer places for disks".into()));
    }
    for (slot, disk) in machine.disks.iter_mut().zip(backing.disks) {
        *slot = disk;
    }
    let start = Start::Boot(machine);
    let guest = Monitored::start(&kept.id, group, start, &vsock, &kept.folder.control(), &[])?;
    Ok((guest, Launched::Cold(listener)))
}

/// A guest that goes on from a snapshot (its state and memory, and what it touches, if that is known).
fn resume(
    kept: &Kept,
    group: Option<group::Wanted>,
    backing: Backing,
    snapshot: &[BorrowedFd<'_>],
    touched: TouchedPages,
) -> Result<Monitored, SandboxError> {
    let vsock = kept.folder.vsock();
    let plugs = Plugs {
        shares: backing.shares(),
        disks: backing.disks,
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            uds_path: vsock.clone(),
            listener: None,
            ports: None,
        }),
        ..Plugs::default()
    };
    let start = Start::Restore(plugs, touched);
    let control = kept.folder.control();
    let mut guest = Monitored::start(&kept.id, group, start, &vsock, &control, snapshot)?;
    guest.timings.warm = true;
    Ok(guest)
}

/// Limits each disk.
fn limit(disks: &mut [DiskConfig], rate_limiter: RateLimiter) {
    disks.iter_mut().for_each(|disk| disk.rate_limiter = rate_limiter);
}

/// The disk that takes what a container writes.
pub fn layer_disk(path: PathBuf) -> DiskConfig {
    DiskConfig {
        path: Some(path),
        read_only: false,
        serial: Some(LAYER_DISK.to_owned()),
        ..DiskConfig::default()
    }
}

/// The disk of an image.
pub fn disk(rootfs: &Path) -> DiskConfig {
    DiskConfig {
        path: Some(rootfs.to_owned()),
        read_only: true,
        serial: Some(IMAGE_DISK.to_owned()),
        ..DiskConfig::default()
    }
}
