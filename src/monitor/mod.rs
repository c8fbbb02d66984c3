//! The monitor: the process that is the VMM of one sandbox.
//!
//! * [`channel`]: whole JSON messages over a socket pair
//! * [`control`]: what the keeper and the monitor say to each other
//! * [`process`]: the monitor's own life, in order
//! * [`server`]: what it answers while its machine runs
//! * [`spawn`]: how a keeper starts one
//!
//! A monitor has one tie to the outside: the control socket, its standard input. When that ends, so
//! does the monitor: a killed keeper leaves no machine behind.

pub mod channel;
pub mod control;
pub mod process;
pub mod server;
pub mod spawn;
