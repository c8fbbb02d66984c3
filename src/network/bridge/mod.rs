//! Networks of ampoule's own: bridges of the host, with an address for each container.
//!
//! ```text
//! <data>/networks/<name>.json      what a network is
//! <data>/networks/<name>.leases    who has which addresses of it, and what belongs to that
//! <data>/networks/lock             held while one of these is changed
//! ```
//!
//! A lease is good as long as its tap is there: the kernel takes a tap away when the last process is gone
//! that has it open, however that ends. What is written down of it is swept by whoever looks next.
//!
//! * [`definition`]: what a network is
//! * [`pool`]: which subnets and addresses are free; pure
//! * [`store`]: networks on disk
//! * [`leases`]: who has which address
//! * [`link`]: bridges and taps of the host's kernel
//! * `forwarding`: that the host forwards, and what it does not
//! * [`port`]: a container's place at a network, with all that belongs to it
//! * [`guard`]: puts back the rules of those places where somebody removes them

pub mod definition;
mod error;
mod forwarding;
pub mod guard;
pub mod leases;
mod link;
pub mod pool;
pub mod port;
pub mod store;

pub use definition::{Network, Subnet, Wanted};
pub use error::BridgeError;
pub use guard::Guard;
pub use leases::Lease;
pub use port::{Endpoint, Port};
pub use store::NetworkStore;
