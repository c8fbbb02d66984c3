//! Socket device (virtio 1.2, 5.10): stream sockets between the guest and Unix sockets of the host.
//!
//! * Host to guest: a client connects to the device's Unix socket and says `CONNECT <port>\n`; when
//!   the guest accepts, it is answered with `OK <host port>\n`, and else its socket is closed.
//! * Guest to host: a connection to port `P` of context id 2 goes to whoever listens on
//!   `<socket>_P`, and is refused if nobody does.
//!
//! From the outside in: [`device`](Vsock) moves packets between the queues and the `muxer`, which
//! knows all connections and watches their sockets; a `link` is one connection with its socket; a
//! `connection` is what of that can be said without any socket, and `credit` who may send how much.
//!
//! A packet may be spread over its descriptors in any way (virtio 1.2, 2.7.4.1), as recent Linux
//! drivers do with large ones. Payload goes from guest memory to the socket and back in one system
//! call. It is copied only where a client does not keep up with its guest.

mod connection;
mod credit;
mod deadlines;
mod device;
mod error;
mod event_handler;
mod handshake;
#[cfg(test)]
mod hostile_tests;
mod link;
mod listener;
mod metrics;
mod muxer;
mod packet;
#[cfg(test)]
mod testing;
mod token;

pub use device::Vsock;
pub use error::VsockError;
#[cfg(fuzzing)]
pub use handshake::{Handshake, parse as parse_handshake};
pub use listener::{connect_to_port, listen};
pub use metrics::VsockMetrics;
