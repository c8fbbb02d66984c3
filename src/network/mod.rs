//! The networks of guests: ampoule's own, and what others have laid.
//!
//! # Ampoule's own
//! * [`bridge`]: bridges of the host, who has which address of them, their taps.
//! * [`firewall`], [`egress`]: what may pass there.
//! * [`nft`]: the kernel's packet filter, over netlink.
//! * [`conntrack`]: connections that the kernel tracks, over the same.
//! * [`publish`]: ports of the host that lead to a container.
//! * [`dns`]: who is called what.
//! * [`passt`]: a network that takes no privilege.
//!
//! # What others have laid
//! The network of a namespace is joined to a guest: what is there (of CNI, netavark, docker), with its
//! addresses and routes, is the guest's.
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
pub mod bridge;
pub mod conntrack;
pub mod dns;
pub mod egress;
mod error;
pub mod firewall;
mod inside;
mod joined;
pub mod lookup;
pub mod nft;
pub mod passt;
pub mod plan;
pub mod publish;
pub mod read;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use error::NetworkError;
pub use inside::check;
pub use joined::{Interface, Joined, clear, join};
