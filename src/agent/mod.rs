//! Host side of the agent protocol. Everything it reads is hostile: lengths are bounded by the
//! framing, every exchange has an end, and a reply of the wrong kind is an error, never a panic.
//!
//! * [`connect`]: a connection to a port of the guest through the sandbox's vsock socket
//! * [`Client`]: requests and replies
//! * [`Events`]: what the agent tells unasked
//! * [`ReadyListener`]: how a sandbox tells that its agent is ready

mod client;
mod connect;
mod deadline;
mod events;
mod ready;
mod words;

pub use ampoule_protocol::message;
pub use client::{Client, ClientError, EXCHANGE_TIME, Opening};
pub use connect::{ConnectError, connect, stream};
pub use events::Events;
pub use ready::{Ready, ReadyListener};
