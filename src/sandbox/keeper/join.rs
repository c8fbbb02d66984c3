//! A container in the sandbox of another, as its own keeper sees it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};

use super::super::container::{self, Then};
use super::super::error::SandboxError;
use super::super::join::{self, Admitted, JoinError, Joining, Leaving, Size};
use super::super::keeper_socket;
use super::super::launch::{Container, disk, layer_disk};
use super::super::layer::Layers;
use super::super::monitored::wait;
use super::super::mounts::Mounted;
use super::super::network::FILES;
use super::super::registry::{Entry, InGuest, Kept, Registry};
use super::super::signals::{self, Signals};
use super::super::spec;
use super::super::state::{Guest, State};
use super::begin::{Begun, Start, bind_files, enter_raw};
use super::home::Home;
use crate::agent::{ClientError, EXCHANGE_TIME};
use crate::image::Image;
use crate::monitor::channel::Channel;
use crate::report::chain;
use crate::vmm::config::DiskConfig;
use crate::vmm::devices::virtio::block;

/// How long the other's keeper may take to tell of its end, after its guest has gone silent.
const TELLING: u16 = 2000;

/// How long it may take to put a container out.
const PUTTING_OUT: Duration = Duration::from_secs(60);

/// A place in another container's sandbox. Dropping it leaves nothing behind there.
#[derive(Debug)]
pub struct Joined {
    /// What other commands read of the container.
    pub state: State,
    kept: Kept,
    /// Whose sandbox it is.
    host: Entry,
    /// To that one's keeper.
    channel: Channel,
    /// The place has been given back, or is no more.
    left: bool,
}

/// Starts a container in the sandbox of the one with the id `named`.
pub fn of_image(start: &Start<'_>, image: &Image, named: &str) -> Result<Begun, SandboxError> {
    let Start { places, container, ends, signals, .. } = start;
    let options = &container.record.options;
    let command = spec::command(&image.config, options)?;
    let mounted = Mounted::prepare(places, &options.mounts)?;
    let host = join::host(&Registry::new(places), named)?;
    let mut disks = vec![open(&disk(&image.rootfs))?];
    if let Some(size) = options.layer_size {
        let path = Layers::new(places).of(&container.kept.id, size)?;
        disks.push(open(&layer_disk(path))?);
    }
    let joining = Joining {
        id: container.kept.id.clone(),
        name: container.kept.name.clone(),
        size: Size::of(options),
        layer: options.layer_size.is_some(),
        rate: options.rates.disk,
    };
    let borrowed: Vec<_> = disks.iter().map(AsFd::as_fd).collect();
    let (channel, admitted) = keeper_socket::join(&host.folder, joining, &borrowed)?;
    // The monitor has them from here on, and holds their locks.
    drop(disks);
    let mut joined = Joined::new(container, command, host, channel, &admitted)?;
    joined.state.rootfs.clone_from(&image.rootfs);
    joined.write_state()?;

    let named =
        super::super::Options { hostname: Some(admitted.hostname.clone()), ..options.clone() };
    let mut made = spec::container(&container.kept.id, &image.config, &named)?;
    let taken = |place: &str| options.mounts.iter().any(|mount| mount.target == Path::new(place));
    let files = FILES
        .into_iter()
        .filter(|(name, place)| admitted.files.iter().any(|file| file == name) && !taken(place));
    bind_files(&mut made.spec, files);
    mounted.add_to(&mut made.spec);
    join_network(&mut made.spec, admitted.init);
    let raw = enter_raw(options, ends)?;
    let create = container::on_plugged(made, &admitted, ends);
    let vsock = joined.in_guest().vsock;
    let starting = container::start(&vsock, create, None, None, Then::Start)
        .map_err(|error| joined.or_its_death(error))?;
    let running = starting
        .finish(ends, || {}, |fd| joined.await_guest(fd, signals))
        .map_err(|error| joined.or_its_death(error))?;
    let hostname = admitted.hostname;
    let home = Home::Joined(Box::new(joined));
    Ok(Begun { home, running, hostname, init: None, events: None, raw, watched: None })
}

/// What the other's keeper is handed opens nothing by a name that others have given.
fn open(disk: &DiskConfig) -> Result<std::fs::File, SandboxError> {
    let opened = block::open(disk).map_err(|error| SandboxError::Refused(chain(&error)))?;
    opened.ok_or_else(|| SandboxError::Refused("a disk that is plugged in has a file".into()))
}

/// Has a container share the network of a process of the guest.
fn join_network(spec: &mut Spec, pid: i32) {
    let Some(linux) = spec.linux_mut() else { return };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    let network = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::Network)
        .path(format!("/proc/{pid}/ns/net"));
    // Built of all that it has: nothing is missing that could fail it.
    namespaces.extend(network.build());
    linux.set_namespaces(Some(namespaces));
}

impl Joined {
    fn new(
        container: &Container<'_>,
        command: Vec<String>,
        host: Entry,
        channel: Channel,
        admitted: &Admitted,
    ) -> Result<Self, SandboxError> {
        let mut state = container.first_state(command, Default::default())?;
        state.guest = Some(Guest {
            sandbox: host.state.id.clone(),
            container: admitted.container.clone(),
            memory_mib: admitted.memory_mib,
            vcpus: admitted.vcpus,
        });
        let kept = container.kept.clone();
        Ok(Self { state, kept, host, channel, left: false })
    }

    /// Where the agent is asked for the container.
    pub fn in_guest(&self) -> InGuest {
        self.kept.folder.in_guest(&self.state)
    }

    /// Writes the state down.
    pub fn write_state(&self) -> Result<(), SandboxError> {
        Ok(self.state.write(&self.kept.folder.state())?)
    }

    /// Waits until the guest has made `from_guest` readable, it has ended, or a signal asks for an end.
    fn await_guest(
        &mut self,
        from_guest: BorrowedFd<'_>,
        signals: &Signals,
    ) -> Result<(), SandboxError> {
        let time = PollTimeout::try_from(EXCHANGE_TIME).unwrap_or(PollTimeout::MAX);
        loop {
            let mut fds = [
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
                PollFd::new(from_guest, PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match wait(&mut fds, time)? {
                Some(0) => return Err(self.host_ended()),
                Some(1) => return Ok(()),
                Some(_) => {
                    let next = signals.next();
                    let signal = next.map_err(SandboxError::host("cannot read a signal"))?;
                    if let Some(signal) = signal.filter(|signal| signals::ends(*signal)) {
                        return Err(SandboxError::Interrupted(signal));
                    }
                }
                None => return Err(SandboxError::NotReady(EXCHANGE_TIME.as_secs())),
            }
        }
    }

    /// The other container has ended, and this one with it.
    pub fn host_ended(&mut self) -> SandboxError {
        self.left = true;
        JoinError::HostEnded(self.host.state.name.clone()).into()
    }

    /// Whether it has: its keeper says nothing on the connection before that.
    pub fn has_lost_host(&self) -> bool {
        self.hears_within(PollTimeout::ZERO)
    }

    fn hears_within(&self, time: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        matches!(wait(&mut fds, time), Ok(Some(_)))
    }

    /// The end of the other container, where that is what lies behind a failed conversation with its guest.
    pub fn or_its_death(&mut self, error: SandboxError) -> SandboxError {
        let broken = match &error {
            SandboxError::Agent(error) => !matches!(error, ClientError::Agent(_)),
            SandboxError::Streams(_) => true,
            _ => false,
        };
        if broken && self.hears_within(PollTimeout::from(TELLING)) {
            return self.host_ended();
        }
        error
    }

    /// Gives the place back.
    pub fn end(mut self) -> State {
        self.leave();
        self.state.guest = None;
        self.state.clone()
    }

    /// The container goes first: what it has written is on its disk before that is taken out. Whatever fails
    /// here is done by the other's keeper when the connection ends.
    fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) || self.has_lost_host() {
            return;
        }
        let InGuest { vsock, container } = self.in_guest();
        if let Err(error) = container::put_out(&vsock, &container, PUTTING_OUT) {
            log::debug!("{}", chain(&error));
        }
        let left = self.channel.send(&Leaving::Leave);
        if left.is_ok() && self.channel.set_patience(PUTTING_OUT).is_ok() {
            let _ = self.channel.receive::<Leaving>();
        }
    }
}

impl AsFd for Joined {
    /// Readable when the other container has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Drop for Joined {
    /// A start that failed, or a keeper that cannot go on.
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_another_processs_and_nothing_else() {
        let image = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [] }, "history": []
        }));
        let options = super::super::super::Options::default();
        let mut made = spec::container(&"a".repeat(64), &image.unwrap(), &options).unwrap();
        let before = made.spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        join_network(&mut made.spec, 7);
        let after = made.spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert_eq!(before.len(), after.len());
        let joined: Vec<_> = after.iter().filter(|namespace| namespace.path().is_some()).collect();
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].path().as_deref(), Some(Path::new("/proc/7/ns/net")));
        assert_eq!(joined[0].typ(), LinuxNamespaceType::Network);
    }
}
