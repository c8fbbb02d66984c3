//! Start latency as users have it: whole commands, from before their process is made to its end.
//!
//! * [`plan`]: whose turn it is; what is compared runs by turns, so that neighbours in time had the
//!   same machine
//! * [`attempt`]: one program, started, timed, ended
//! * [`entrant`]: whoever takes part; [`sandboxes`], [`forks`], [`oci`]: this program's own starts
//! * [`peers`]: other programs, one a file
//! * [`rounds`]: carries the plan out
//! * [`statistics`], [`machine`], [`report`], [`plot`]: what was found, and where

pub mod attempt;
pub mod entrant;
pub mod forks;
pub mod interrupt;
pub mod machine;
pub mod oci;
pub mod peers;
pub mod plan;
pub mod plot;
pub mod report;
pub mod rounds;
pub mod sandboxes;
pub mod statistics;
mod wait;
