//! A sandbox: one microVM and everything the host keeps for it.
//!
//! * [`keeper`]: one container from its sandbox's start to its exit code
//! * [`detach`]: a keeper in a process of its own
//! * [`exec`], [`lifecycle`]: what other commands ask of a running one
//! * [`Registry`]: the sandboxes of this host, their folders, names and state
//! * [`options`], [`spec`]: what a user asks for, and the OCI `config.json` it becomes
//! * [`Config`]: what an administrator decides for all of them
//! * [`launch`], [`container`]: monitor and agent, then the container's process
//! * [`shares`]: directories that a guest sees while it runs, and then no more
//! * [`log`], [`timings`]: what a detached container wrote; when what happened
//! * [`stats`]: what a running one takes of the host

pub mod about;
mod config;
pub(crate) mod container;
pub mod detach;
mod error;
pub mod exec;
pub mod fork;
pub mod guest;
pub mod keeper;
pub mod launch;
pub mod lifecycle;
pub mod log;
pub mod monitored;
mod options;
mod places;
mod registry;
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

pub use config::{Config, ConfigError};
pub use container::CONTAINER;
pub use error::SandboxError;
pub use guest::{GuestFiles, GuestFilesError};
pub use launch::SHARE;
pub use options::{LEAST_MEMORY, Options};
pub use places::Places;
pub use registry::{Entry, Folder, Registry, RegistryError};
pub use shape::{Shape, Slots};
pub use shares::{SharedTree, SharedTreeError};
pub use spec::SpecError;
pub use state::{State, StateError, Status};
pub use streams::Ends;
