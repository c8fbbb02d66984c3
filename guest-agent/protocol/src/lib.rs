//! What the host side and the agent of a sandbox say to each other, and the little that both have to
//! do in the same way.
//!
//! * [`frame`]: u32 length (little endian) + JSON, with a hard size limit.
//! * [`message`]: the requests, replies and events.
//! * [`network`]: interfaces, their addresses and routes; pods.
//! * [`hooks`]: how a hook is run, on whichever side it is.
//! * [`features`]: what the agent knows by name, for the host to tell.
//! * [`archive`]: files on their way from one side to the other.
//!
//! Connections, all over vsock:
//!
//! | who connects | port | what flows |
//! | --- | --- | --- |
//! | agent → host | [`READY_PORT`] | one [`message::Hello`] when the agent is ready, then [`message::Event`]s; its end means the guest is gone |
//! | host → agent | [`RPC_PORT`] | [`message::Hello`] both ways (host first), then [`message::Request`]s, answered in order, one [`message::Reply`] each; a client may send the next request before it has the reply to the last |
//! | host → agent | [`STREAM_PORT`] | one [`message::StreamHello`] frame from the host, then the raw bytes of one stdio stream, with half-close |
//!
//! Neither side trusts the other's lengths: a frame beyond [`frame::MAX_FRAME`] ends the connection.

pub mod archive;
pub mod features;
pub mod frame;
pub mod hooks;
pub mod message;
pub mod network;

/// Version of the protocol; both sides must name the same one in their [`message::Hello`].
pub const VERSION: u32 = 1;

/// Host port that the agent connects to as soon as it can serve requests.
pub const READY_PORT: u32 = 1024;

/// Guest port on which the agent serves requests.
pub const RPC_PORT: u32 = 1024;

/// Guest port on which the agent takes stdio streams.
pub const STREAM_PORT: u32 = 1025;

/// Folder of the guest where the agent mounts shared file systems, each in a folder named by its
/// tag. The sources of bind mounts name files of a share by their path below it.
pub const SHARES: &str = "/run/ampoule/shares";

/// Folder of the guest where the files are that containers get from their host.
pub const FILES: &str = "/run/ampoule/files";

/// The agent's own binary in its guest.
pub const AGENT_PATH: &str = "/init";

/// Where a container that asked for an init finds the agent's binary, which is one.
pub const INIT_PATH: &str = "/sbin/docker-init";
