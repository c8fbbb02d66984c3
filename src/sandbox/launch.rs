//! Starts a sandbox: its folder and its monitor, cold from the kernel on or warm from a template.

use std::os::fd::{AsFd, BorrowedFd};

use super::error::SandboxError;
use super::fork::{Fork, Frozen};
use super::guest::GuestFiles;
use super::monitored::Monitored;
use super::options::Options;
use super::places::Places;
use super::registry::{Kept, Registry};
use super::spec;
use super::state::State;
use super::template::{self, Template};
use super::timings::Timings;
use crate::agent::ReadyListener;
use crate::clock::now_us;
use crate::image::Image;
use crate::monitor::control::{MonitorRequest, Start, TouchedPages};
use crate::vmm::config::{DiskConfig, VsockConfig};
use crate::vmm::snapshot::state::Plugs;

/// Serial number of the disk that holds the image.
pub const IMAGE_DISK: &str = "image";

/// Context id of every guest: a sandbox's vsock is its own, so they need not differ.
pub const GUEST_CID: u64 = 3;

/// A sandbox whose keeper is this process. Dropping it leaves nothing behind but, where the options
/// say so, its record.
#[derive(Debug)]
pub struct Sandbox {
    registry: Registry,
    /// `None` once it is cleared away.
    kept: Option<Kept>,
    /// Its guest.
    pub guest: Monitored,
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
        let started = match template {
            Some(template) => Self::restore(&kept, image, template),
            None => Self::boot(&kept, image, options),
        };
        let begun = started.and_then(|(guest, launched)| {
            // Written while the guest starts.
            let mut state =
                State::new(kept.id.clone(), kept.name.clone(), options.image.clone(), command);
            state.terminal = options.terminal;
            state.remove = options.remove;
            state.monitor = Some(guest.pid());
            state.write(&kept.folder.state())?;
            Ok((guest, state, launched))
        });
        match begun {
            Ok((guest, state, launched)) => {
                Ok((Self { registry, kept: Some(kept), guest, state }, launched))
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = registry.remove(kept);
                Err(error)
            }
        }
    }

    /// Makes the folder of a fork and restores its guest, which is to be woken.
    pub fn fork(places: &Places, fork: &Fork, frozen: &Frozen) -> Result<Self, SandboxError> {
        let registry = Registry::new(places);
        let kept = registry.create(fork.name.as_deref())?;
        let snapshot = [frozen.state.as_fd(), frozen.memory.as_fd()];
        let begun =
            Self::resume(&kept, Vec::new(), &snapshot, TouchedPages::Ignored).and_then(|guest| {
                let (image, command) = (fork.image.clone(), fork.command.clone());
                let mut state = State::new(kept.id.clone(), kept.name.clone(), image, command);
                state.terminal = fork.terminal;
                state.remove = fork.remove;
                state.monitor = Some(guest.pid());
                state.write(&kept.folder.state())?;
                Ok((guest, state))
            });
        match begun {
            Ok((guest, state)) => Ok(Self { registry, kept: Some(kept), guest, state }),
            Err(error) => {
                let _ = registry.remove(kept);
                Err(error)
            }
        }
    }

    fn boot(
        kept: &Kept,
        image: &Image,
        options: &Options,
    ) -> Result<(Monitored, Launched), SandboxError> {
        let files = GuestFiles::find(options.kernel.as_deref())?;
        let vsock = kept.folder.vsock();
        let listener = ReadyListener::bind(&vsock)
            .map_err(SandboxError::host("cannot listen for the guest's agent"))?;
        let mut machine = template::machine(&files, options, &vsock);
        machine.disks = vec![disk(image)];
        let start = Start::Boot(machine);
        let guest = Monitored::start(&kept.id, start, &vsock, &kept.folder.control(), &[])?;
        Ok((guest, Launched::Cold(listener)))
    }

    fn restore(
        kept: &Kept,
        image: &Image,
        template: &Template,
    ) -> Result<(Monitored, Launched), SandboxError> {
        let mut snapshot = vec![template.state.as_fd(), template.memory.as_fd()];
        snapshot.extend(template.touched.as_ref().map(AsFd::as_fd));
        let touched = match template.touched {
            Some(_) => TouchedPages::Known,
            None => TouchedPages::Watched,
        };
        Ok((Self::resume(kept, vec![disk(image)], &snapshot, touched)?, Launched::Warm))
    }

    /// A guest that goes on from a snapshot (its state and memory, and what it touches, if that is
    /// known), with these disks.
    fn resume(
        kept: &Kept,
        disks: Vec<DiskConfig>,
        snapshot: &[BorrowedFd<'_>],
        touched: TouchedPages,
    ) -> Result<Monitored, SandboxError> {
        let vsock = kept.folder.vsock();
        let plugs = Plugs {
            disks,
            vsock: Some(VsockConfig {
                guest_cid: GUEST_CID,
                uds_path: vsock.clone(),
                listener: None,
            }),
            ..Plugs::default()
        };
        let start = Start::Restore(plugs, touched);
        let mut guest =
            Monitored::start(&kept.id, start, &vsock, &kept.folder.control(), snapshot)?;
        guest.timings.warm = true;
        Ok(guest)
    }

    /// Asks the monitor when the machine started, and waits for its answer.
    pub fn take_timings(&mut self) -> Result<(), SandboxError> {
        self.guest.ask(MonitorRequest::Timings, &[])
    }

    /// The sandbox's folder.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Writes the state down.
    pub fn write_state(&self) -> Result<(), SandboxError> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        Ok(self.state.write(&kept.folder.state())?)
    }

    /// Clears away what killed keepers have left of other sandboxes.
    pub fn sweep(&self) -> Result<(), SandboxError> {
        Ok(self.registry.sweep()?)
    }

    /// Ends the machine and leaves the container's record, or nothing.
    pub fn end(mut self, keep_record: bool) -> Result<Timings, SandboxError> {
        self.guest.end()?;
        if keep_record {
            self.write_state()?;
            if let Some(kept) = self.kept.take() {
                kept.folder.remove_sockets();
            }
        } else if let Some(kept) = self.kept.take() {
            self.registry.remove(kept)?;
        }
        self.guest.timings.cleared_us = now_us();
        Ok(self.guest.timings)
    }
}

impl AsFd for Sandbox {
    /// Readable when its monitor has something to tell.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.guest.as_fd()
    }
}

impl Drop for Sandbox {
    /// A start that failed, or a keeper that cannot go on: the machine ends, nothing stays.
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let _ = self.guest.end();
        let _ = self.registry.remove(kept);
    }
}

fn disk(image: &Image) -> DiskConfig {
    DiskConfig {
        path: Some(image.rootfs.clone()),
        read_only: true,
        serial: Some(IMAGE_DISK.to_owned()),
    }
}
