//! A sandbox: one microVM and everything the host keeps for it.

mod places;
mod registry;
mod state;

pub use places::Places;
pub use registry::{Entry, Folder, Kept, Registry, RegistryError};
pub use state::{State, StateError, Status};
