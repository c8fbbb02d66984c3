//! A container that shares the network of another by sharing its sandbox: what is refused, and what is asked
//! of the other one's keeper.
//!
//! The connection on which that was asked stays open for as long as the container is there. Its end is how
//! either side learns that the other is gone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::options::Options;
use super::rates::NetRates;
use super::registry::{Entry, Registry};
use super::shape::Shape;
use super::state::Status;
use crate::network::egress::Egress;
use crate::vmm::rate::RateLimiter;

/// Why a container cannot be in the sandbox of another, or is there no more.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// what is the other container's to say; docker's words
    #[error("conflicting options: {0} and the network mode")]
    Conflict(&'static str),
    /// docker's words
    #[error("cannot join network of a non running container: {0}")]
    NotRunning(String),
    /// docker's words
    #[error("container {0} is restarting, wait until the container is running")]
    Restarting(String),
    /// a directory of the host, or a volume
    #[error(
        "cannot mount {}: the container is in the sandbox of another one, which got its directories of the \
         host when it was started; use --tmpfs", .0.display()
    )]
    Mount(PathBuf),
    /// all are taken
    #[error(
        "the sandbox of container {container} has no free disk slot: {wanted} are needed, {free} are free"
    )]
    NoSlot {
        /// whose sandbox it is
        container: String,
        /// how many are needed
        wanted: usize,
        /// how many there are
        free: usize,
    },
    /// limits beyond the machine
    #[error(
        "the machine of the sandbox has {vcpus} CPUs and {memory_mib} MiB, which is less than the container \
         is to have, and cannot grow while it runs"
    )]
    TooLarge {
        /// memory of the machine
        memory_mib: u32,
        /// its vCPUs
        vcpus: u8,
    },
    /// its first process is not known
    #[error("the network of container {0} cannot be joined: it does not run yet, or ends")]
    NoProcess(String),
    /// the disks that belong to the request
    #[error("the request to join a sandbox came with {0} disks")]
    Disks(usize),
    /// and with it its sandbox
    #[error("killed: container {0}, whose network and sandbox it shared, has ended")]
    HostEnded(String),
}

/// How large a machine a container needs, as far as it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    memory_mib: Option<u32>,
    vcpus: Option<u8>,
}

impl Size {
    /// That of a container with these options.
    pub fn of(options: &Options) -> Self {
        let cpus = options.limits.cpus(options.cpus);
        let shape = Shape::new(cpus, options.memory, None);
        Self {
            memory_mib: options.memory.map(|_| shape.memory_mib),
            vcpus: cpus.map(|_| shape.vcpus),
        }
    }

    /// Refuses what a machine is too small for.
    pub fn fits(self, memory_mib: u32, vcpus: u8) -> Result<(), JoinError> {
        let within = self.memory_mib.is_none_or(|wanted| wanted <= memory_mib)
            && self.vcpus.is_none_or(|wanted| wanted <= vcpus);
        if within { Ok(()) } else { Err(JoinError::TooLarge { memory_mib, vcpus }) }
    }
}

/// What a container's keeper asks another's. The image's disk comes with it, and the writable layer's where
/// there is one: opened and locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joining {
    /// Id of the container.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How large a machine it needs.
    pub size: Size,
    /// What it writes goes to a disk.
    pub layer: bool,
    /// Limits of each of its disks.
    #[serde(default)]
    pub rate: RateLimiter,
}

/// A disk that was plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugged {
    /// Serial number that the guest knows it by.
    pub serial: String,
    /// Its length, in sectors of 512 bytes.
    pub sectors: u64,
}

/// A container's place in another's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admitted {
    /// What the agent is to call it.
    pub container: String,
    /// Pid of the other's first process in the guest, whose network it is.
    pub init: i32,
    /// The other's host name.
    pub hostname: String,
    /// Names of the files that tell of its network.
    pub files: Vec<String>,
    /// The disk of its image.
    pub image: Plugged,
    /// The disk that takes what it writes.
    pub layer: Option<Plugged>,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: u8,
}

/// What is said on the connection once the container has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leaving {
    /// It is to be put out: answered when its disks are.
    Leave,
    /// They are.
    Left,
}

/// Refuses what the other container has already, or what its sandbox cannot be given.
pub fn check(options: &Options) -> Result<(), JoinError> {
    if options.network.mode.host().is_none() {
        return Ok(());
    }
    let network = &options.network;
    let conflicts = [
        (options.hostname.is_some(), "hostname"),
        (network.domainname.is_some(), "domainname"),
        (!network.publish.is_empty() || network.publish_all, "port publishing"),
        (
            !network.dns.is_empty()
                || !network.dns_search.is_empty()
                || !network.dns_options.is_empty(),
            "dns",
        ),
        (!network.hosts.is_empty(), "custom host-to-IP mapping"),
        (network.egress != Egress::default(), "egress"),
        (options.rates.network != NetRates::NONE, "network-rate"),
        (options.kernel.is_some(), "kernel"),
        (!options.limits.cpuset.is_empty(), "cpuset-cpus"),
        (options.cgroup_parent.is_some(), "cgroup-parent"),
    ];
    if let Some((_, what)) = conflicts.into_iter().find(|(asked, _)| *asked) {
        return Err(JoinError::Conflict(what));
    }
    match options.mounts.iter().find(|mount| mount.is_shared()) {
        Some(mount) => Err(JoinError::Mount(mount.target.clone())),
        None => Ok(()),
    }
}

/// The container whose sandbox one is in that joins the network of the container with this id.
pub fn host(registry: &Registry, id: &str) -> Result<Entry, JoinError> {
    let running = |id: &str| {
        let entry = registry.find(id).map_err(|_| JoinError::NotRunning(id.to_owned()))?;
        match entry.state.status {
            Status::Running | Status::Paused => Ok(entry),
            Status::Restarting => Err(JoinError::Restarting(id.to_owned())),
            Status::Created | Status::Exited => Err(JoinError::NotRunning(id.to_owned())),
        }
    };
    let entry = running(id)?;
    match &entry.state.guest {
        // Nobody's is in one that is in another's.
        Some(guest) => running(&guest.sandbox),
        None => Ok(entry),
    }
}

/// Names of the files that a container with these options has been given, in which others find its network.
pub fn files(options: &Options) -> Vec<String> {
    let taken = |place: &str| options.mounts.iter().any(|mount| mount.target == Path::new(place));
    let own = super::network::FILES.iter().filter(|(_, place)| !taken(place));
    own.map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::mounts::{MountKind, MountPoint};
    use crate::sandbox::network::{NetworkMode, NetworkOptions};

    fn joins() -> Options {
        let mode = NetworkMode::Container("a".repeat(64));
        let network = NetworkOptions { mode, ..NetworkOptions::default() };
        Options { network, ..Options::default() }
    }

    #[test]
    fn what_is_the_other_containers_is_refused() {
        assert!(check(&joins()).is_ok());
        type Spoil = fn(&mut Options);
        let spoiled: [(Spoil, &str); 6] = [
            (|options| options.hostname = Some("x".into()), "hostname"),
            (|options| options.network.publish_all = true, "port publishing"),
            (|options| options.network.dns = vec!["192.0.2.1".parse().unwrap()], "dns"),
            (|options| options.network.domainname = Some("x".into()), "domainname"),
            (|options| options.limits.cpuset = vec![0], "cpuset-cpus"),
            (|options| options.kernel = Some("/k".into()), "kernel"),
        ];
        for (spoil, what) in spoiled {
            let mut options = joins();
            spoil(&mut options);
            let told = format!("conflicting options: {what} and the network mode");
            assert_eq!(check(&options).unwrap_err().to_string(), told);
            options.network.mode = NetworkMode::None;
            assert!(check(&options).is_ok());
        }
    }

    #[test]
    fn only_what_is_in_memory_can_be_mounted() {
        let mount = |kind| MountPoint::new(Path::new("/x"), false, kind).unwrap();
        let tmpfs = mount(MountKind::Tmpfs { options: Vec::new() });
        assert!(check(&Options { mounts: vec![tmpfs.clone()], ..joins() }).is_ok());
        let bind = mount(MountKind::Bind { source: "/tmp".into(), make: false });
        let options = Options { mounts: vec![tmpfs, bind], ..joins() };
        assert!(matches!(check(&options), Err(JoinError::Mount(_))));
    }

    #[test]
    fn limits_are_within_the_machine() {
        let size = |memory, cpus| Size::of(&Options { memory, cpus, ..Options::default() });
        assert!(size(None, None).fits(160, 1).is_ok());
        assert!(size(Some(64 << 20), Some(0.5)).fits(160, 1).is_ok());
        assert!(size(Some(512 << 20), None).fits(160, 1).is_err());
        assert!(size(None, Some(1.5)).fits(160, 1).is_err());
    }

    #[test]
    fn files_that_it_has_from_elsewhere_are_not_its_networks() {
        let bind = MountKind::Bind { source: "/x".into(), make: false };
        let mounts = vec![MountPoint::new(Path::new("/etc/hosts"), true, bind).unwrap()];
        assert_eq!(files(&Options { mounts, ..Options::default() }), ["resolv.conf", "hostname"]);
    }
}
