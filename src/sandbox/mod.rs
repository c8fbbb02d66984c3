//! A sandbox: one microVM and everything the host keeps for it.

mod guest;
pub mod log;
mod options;
mod places;
mod registry;
mod spec;
mod state;
mod streams;
mod terminal;
pub mod timings;

pub use options::{LEAST_MEMORY, Options};
pub use places::Places;
pub use registry::{Entry, Folder, Kept, Registry, RegistryError};
pub use spec::{ContainerSpec, SpecError};
pub use state::{State, StateError, Status};
