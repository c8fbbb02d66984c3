//! The monitor: the process that is the VMM of one sandbox.
//!
//! * [`channel`]: whole JSON messages over a socket pair
//! * [`control`]: what the keeper and the monitor say to each other
//! * [`process`]: the monitor's own life, in order
//! * [`server`]: what it answers while its machine runs
//! * [`spawn`], [`birth`]: how a keeper starts one
//! * [`jail`], [`user_namespace`], [`seccomp`]: what it gives up, and what its threads may still do
//! * [`group`]: what all of it may take of the host
//! * [`ports`]: the connections that its keeper makes for it
//!
//! A monitor has one tie to the outside: the control socket. When that ends, so does the monitor: a
//! killed keeper leaves no machine behind.

pub mod birth;
pub mod channel;
pub mod control;
pub mod group;
pub mod jail;
pub mod ports;
pub mod process;
pub mod seccomp;
pub mod server;
pub mod spawn;
pub mod user_namespace;
