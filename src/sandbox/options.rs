//! What a user asks of a new sandbox and its container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::{Config, Layer};
use super::error::SandboxError;
use super::health::{self, HealthCheck};
use super::join;
use super::limits::Limits;
use super::log::LogLimits;
use super::mounts::{self, MountPoint};
use super::network::NetworkOptions;
use super::places::Places;
use super::rates::Rates;
use super::restart::RestartPolicy;
use super::security::Security;
use super::shape::{Shape, Slots};
use crate::image::verify::Purpose;
use crate::image::{Image, Store, Verifier};

/// Least memory limit that is accepted, in bytes (docker's).
pub const LEAST_MEMORY: u64 = 6 << 20;

/// Options of `ampoule run`, in the words of `docker run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Image as the user names it.
    pub image: String,
    /// Arguments that replace the image's `Cmd`.
    pub command: Vec<String>,
    /// A program that must accept the image.
    pub verify_with: Option<PathBuf>,
    /// Replaces the image's `Entrypoint` (and drops its `Cmd`); empty for none.
    pub entrypoint: Option<String>,
    /// `K=V` over the image's environment.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// User, as in an image's `User`.
    pub user: Option<String>,
    /// Host name; the beginning of the id by default.
    pub hostname: Option<String>,
    /// Name; a random one by default.
    pub name: Option<String>,
    /// CPUs, fractions allowed.
    pub cpus: Option<f64>,
    /// Memory limit of the container in bytes.
    pub memory: Option<u64>,
    /// Another kernel than ampoule's.
    pub kernel: Option<PathBuf>,
    /// Keep stdin open.
    pub interactive: bool,
    /// Give the program a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal at the start.
    pub terminal_size: Option<(u16, u16)>,
    /// Remove the container's record when it ends.
    pub remove: bool,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How it is checked whether it does its work.
    pub health: Option<HealthCheck>,
    /// Bounds of its log.
    pub log: LogLimits,
    /// Boot the guest's kernel, rather than restore a template.
    pub cold: bool,
    /// What is mounted beside the root file system.
    pub mounts: Vec<MountPoint>,
    /// Size of the disk that takes what is written to the root file system, in bytes; memory takes it where
    /// there is none.
    pub layer_size: Option<u64>,
    /// The root file system takes no writes.
    pub read_only: bool,
    /// What it may take beside CPUs and memory.
    pub limits: Limits,
    /// How much its network and its disks may do in a time.
    pub rates: Rates,
    /// What its processes may do.
    pub security: Security,
    /// Its first process is the agent's, which starts the program, passes signals on and collects orphans.
    pub init: bool,
    /// Further groups of its program, by name or id.
    pub groups: Vec<String>,
    /// Labels of the container, which mean nothing here.
    pub labels: BTreeMap<String, String>,
    /// Annotations of its specification.
    pub annotations: BTreeMap<String, String>,
    /// Name of the signal that asks its program to end; its image's, or SIGTERM, without it.
    pub stop_signal: Option<String>,
    /// Seconds that the program then has; -1 for any.
    pub stop_timeout: Option<i64>,
    /// Its network.
    pub network: NetworkOptions,
    /// Control group of the host that the sandbox's own is made in, below the root of all.
    pub cgroup_parent: Option<PathBuf>,
}

impl Options {
    /// The image, if all accept it who have a say. It is kept while this is held.
    pub fn open_image(&self, places: &Places) -> Result<Image, SandboxError> {
        let image = Store::open(&places.data)?.get(&self.image)?;
        self.accept(&image)?;
        Ok(image)
    }

    /// Refuses an image that cannot be run here, or that somebody does not accept who has a say.
    pub fn accept(&self, image: &Image) -> Result<(), SandboxError> {
        image.check_platform()?;
        let verifier = Verifier::new(self.verify_with.as_deref(), Purpose::Run)?;
        verifier.check_stored::<SandboxError>(image, &self.image)?;
        Ok(())
    }

    /// With what the user has not said: a volume of the container's own for each place that its image declares
    /// one at, and where its writes go. To be written down like this: it is the same at each start, at
    /// which nothing is added any more.
    pub fn settled(mut self, image: &Image) -> Result<Self, SandboxError> {
        join::check(&self)?;
        // Who joins a sandbox brings no share: its layer takes what is written there.
        if self.network.mode.host().is_none() {
            mounts::add_declared(&mut self.mounts, &image.config)?;
        }
        self.health = match (self.health, health::declared(image)) {
            (Some(own), Some(image)) => Some(own.over(image)),
            (own, image) => own.or(image),
        };
        if self.network.publish_all {
            self.network.publish_declared(image);
        }
        if self.stop_signal.is_none() {
            self.stop_signal =
                image.config.config().as_ref().and_then(|config| config.stop_signal().clone());
        }
        // What is removed at its end, or takes no writes, needs nothing that lasts.
        if self.layer_size.is_none() && !self.remove && !self.read_only {
            let storage = Config::load()?.storage;
            self.layer_size = (storage.layer == Layer::Disk).then_some(storage.layer_size);
        }
        Ok(self)
    }

    /// The machine that the container needs.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::new(self.limits.cpus(self.cpus), self.memory, self.kernel.clone());
        let nets = u8::try_from(self.network.mode.interfaces()).unwrap_or(u8::MAX);
        shape.slots.nets = shape.slots.nets.max(nets);
        if self.cold {
            // No template is shared with others: no device is booted that has nothing in it.
            shape.slots = Slots { nets, disks: 1 + u8::from(self.layer_size.is_some()) };
        }
        shape
    }
}
