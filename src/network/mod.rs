//! The network of a namespace, joined to a guest: what others have laid there (CNI, netavark, docker),
//! with its addresses and routes, is the guest's.
//!
//! For each interface a tap is made in the same namespace. Filters at both ends' ingress hand all that
//! comes in at the one out at the other, before the host's own stack sees it; the guest's interface has
//! the hardware address, MTU, addresses, routes and permanent neighbours of the first one. That keeps
//! its addresses, for those who look there, and answers nobody any more.
//!
//! * [`plan`]: what becomes of what is there; pure.
//! * [`read`]: what is there.
//! * [`apply`]: what is made of it, and undone.
//! * [`inside`]: the threads that work in a namespace that is not theirs.

pub mod apply;
mod error;
mod inside;
mod joined;
pub mod lookup;
pub mod plan;
pub mod read;
#[cfg(test)]
mod tests;

pub use error::NetworkError;
pub use inside::check;
pub use joined::{Interface, Joined, clear, join};
