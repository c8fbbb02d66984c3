//! Arguments that several verbs share, and how they are read.

mod container;
mod filters;
mod life;
mod limits;
mod metadata;
mod mounts;
mod network;
mod process;
mod rates;
mod seccomp;
mod security;
mod storage;
mod values;

pub use container::ContainerArgs;
pub use filters::{Filters, moment};
pub use life::LifeArgs;
pub use process::{ProcessArgs, terminal_for};
pub use values::{cpus, label, memory, size};

pub use crate::sandbox::signals::parse as signal;
