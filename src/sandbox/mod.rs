//! A sandbox: one microVM and everything the host keeps for it.
//!
//! * [`keeper`]: one container from its sandbox's start to its exit code
//! * [`detach`]: a keeper in a process of its own
//! * [`exec`], [`lifecycle`]: what other commands ask of a running one
//! * [`Registry`]: the sandboxes of this host, their folders, names and state
//! * [`options`], [`spec`]: what a user asks for, and the OCI `config.json` it becomes
//! * [`Config`]: what an administrator decides for all of them
//! * [`keeper_socket`], [`outlet`]: what a keeper is asked; where the output goes
//! * [`launch`], [`container`]: monitor and agent, then the container's process
//! * [`layer`]: disks for what containers write to their root file systems
//! * [`limits`], [`security`]: what a container may take, and what its processes may do
//! * [`rates`]: how much its network and its disks may do in a time
//! * [`mounts`]: what is mounted in a container beside its root file system
//! * [`network`]: which networks it is on
//! * [`shares`]: directories that a guest sees while it runs, and then no more
//! * [`log`], [`timings`]: what a detached container wrote; when what happened
//! * [`archive`]: files that are copied from containers and to them, and what they have changed
//! * [`stats`]: what a running one takes of the host

pub mod about;
pub mod archive;
pub mod attach;
mod config;
pub(crate) mod container;
pub mod detach;
mod error;
pub mod events;
pub mod exec;
pub mod fork;
pub mod guest;
pub mod health;
pub mod join;
pub mod keeper;
pub mod keeper_socket;
pub mod launch;
pub mod layer;
pub mod lifecycle;
pub mod limits;
mod lines;
pub mod log;
pub mod monitored;
pub mod mounts;
pub mod network;
mod options;
pub mod outlet;
mod places;
pub mod rates;
mod record;
mod registry;
mod restart;
pub mod security;
mod shape;
pub mod shares;
pub(crate) mod signals;
pub mod spec;
mod state;
pub mod stats;
pub(crate) mod streams;
pub mod template;
pub mod timings;
pub mod trace;
pub(crate) mod wake;

pub use config::{Config, ConfigError, DEFAULT_CONFIG};
pub use container::CONTAINER;
pub use error::SandboxError;
pub use guest::{GuestFiles, GuestFilesError};
pub use launch::SHARE;
pub use options::{LEAST_MEMORY, Options};
pub use places::Places;
pub use record::{Record, RecordError};
pub use registry::{Damaged, Entry, Folder, InGuest, Kept, Registry, RegistryError, images_of};
pub use restart::{RestartPolicy, UnknownPolicy};
pub use shape::{Shape, Slots};
pub use shares::{SharedTree, SharedTreeError};
pub use spec::SpecError;
pub use state::{Guest, State, StateError, Status};
pub use streams::Ends;
