//! Starts a sandbox: its folder and its monitor, cold from the kernel on or warm from a template.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_protocol::message::{NetworkNamespace, Request};

use super::error::SandboxError;
use super::fork::{Fork, Frozen};
use super::guest::GuestFiles;
use super::monitored::Monitored;
use super::options::Options;
use super::places::Places;
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
use crate::monitor::group::Size;
use crate::network::Interface;
use crate::vmm::config::{DiskConfig, Export, FsConfig, VsockConfig};
use crate::vmm::host::Opened;
use crate::vmm::snapshot::state::Plugs;

/// Serial number of the disk that holds the image.
pub const IMAGE_DISK: &str = "image";

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
        Self::keep(registry, kept, |kept| start(kept, shape, backing, template))
    }

    /// A machine of what `start` starts; on failure its folder goes.
    fn keep<T>(
        registry: Registry,
        kept: Kept,
        start: impl FnOnce(&Kept) -> Result<(Monitored, T), SandboxError>,
    ) -> Result<(Self, T), SandboxError> {
        match start(&kept) {
            Ok((guest, launched)) => Ok((Self { registry, kept: Some(kept), guest }, launched)),
            Err(error) => {
                // The first error is the one to tell.
                let _ = registry.remove(kept);
                Err(error)
            }
        }
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
            self.guest.plug_net(guest.slot, tap.as_fd(), Some(guest.mac)).map_err(|error| {
                SandboxError::Interface { name: guest.name.clone(), source: Box::new(error) }
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
            Some(kept) => Ok(self.registry.remove(kept)?),
            None => Ok(()),
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
    /// Makes the folder and starts the monitor; the guest runs from here on.
    pub fn launch(
        places: &Places,
        image: &Image,
        options: &Options,
        template: Option<&Template>,
    ) -> Result<(Self, Launched), SandboxError> {
        let command = spec::command(&image.config, options)?;
        let registry = Registry::new(places);
        let kept = registry.create(options.name.as_deref())?;
        let backing = Backing { disks: vec![disk(&image.rootfs)], ..Backing::default() };
        let (machine, launched) =
            Machine::keep(registry, kept, |kept| start(kept, &options.shape(), backing, template))?;
        let known = Known {
            image: options.image.clone(),
            rootfs: image.rootfs.clone(),
            command,
            terminal: options.terminal,
            remove: options.remove,
        };
        Ok((Self::write(machine, known)?, launched))
    }

    /// Makes the folder of a fork and restores its guest, which is to be woken.
    pub fn fork(places: &Places, fork: &Fork, frozen: &Frozen) -> Result<Self, SandboxError> {
        let registry = Registry::new(places);
        let kept = registry.create(fork.name.as_deref())?;
        let snapshot = [frozen.state.as_fd(), frozen.memory.as_fd()];
        let (machine, ()) = Machine::keep(registry, kept, |kept| {
            // Named here, and not by what the guest was written down with: nothing of that is looked at
            // before the monitor has given up all rights.
            let backing = Backing { disks: vec![disk(&fork.rootfs)], ..Backing::default() };
            let size = Some(frozen.size());
            Ok((resume(kept, size, backing, &snapshot, TouchedPages::Ignored)?, ()))
        })?;
        let known = Known {
            image: fork.image.clone(),
            rootfs: fork.rootfs.clone(),
            command: fork.command.clone(),
            terminal: fork.terminal,
            remove: fork.remove,
        };
        Self::write(machine, known)
    }

    /// With its first state, which is written while the guest starts.
    fn write(machine: Machine, known: Known) -> Result<Self, SandboxError> {
        let (id, name) =
            machine.kept().map(|kept| (kept.id.clone(), kept.name.clone())).unwrap_or_default();
        let mut state = State::new(id, name, known.image, known.command);
        state.rootfs = known.rootfs;
        state.terminal = known.terminal;
        state.remove = known.remove;
        state.monitor = Some(machine.guest.pid());
        let sandbox = Self { machine, state };
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

    /// Ends the machine and leaves the container's record, or nothing.
    pub fn end(mut self, keep_record: bool) -> Result<Timings, SandboxError> {
        self.machine.guest.end()?;
        if keep_record {
            self.write_state()?;
            if let Some(kept) = self.machine.kept.take() {
                kept.folder.remove_sockets();
            }
        } else {
            self.machine.clear_away()?;
        }
        self.machine.guest.timings.cleared_us = now_us();
        Ok(self.machine.guest.timings)
    }
}

/// What is known of a container from its start on.
struct Known {
    image: String,
    rootfs: PathBuf,
    command: Vec<String>,
    terminal: bool,
    remove: bool,
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
    let size = (!backing.callers_group).then(|| shape.size());
    match template {
        Some(template) => {
            let mut snapshot = vec![template.state.as_fd(), template.memory.as_fd()];
            snapshot.extend(template.touched.as_ref().map(AsFd::as_fd));
            let touched = match template.touched {
                Some(_) => TouchedPages::Known,
                None => TouchedPages::Watched,
            };
            Ok((resume(kept, size, backing, &snapshot, touched)?, Launched::Warm))
        }
        None => boot(kept, size, shape, backing),
    }
}

fn boot(
    kept: &Kept,
    size: Option<Size>,
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
    let guest = Monitored::start(&kept.id, size, start, &vsock, &kept.folder.control(), &[])?;
    Ok((guest, Launched::Cold(listener)))
}

/// A guest that goes on from a snapshot (its state and memory, and what it touches, if that is known).
fn resume(
    kept: &Kept,
    size: Option<Size>,
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
    let mut guest = Monitored::start(&kept.id, size, start, &vsock, &control, snapshot)?;
    guest.timings.warm = true;
    Ok(guest)
}

fn disk(rootfs: &Path) -> DiskConfig {
    DiskConfig {
        path: Some(rootfs.to_owned()),
        read_only: true,
        serial: Some(IMAGE_DISK.to_owned()),
        opened: Opened::default(),
    }
}
