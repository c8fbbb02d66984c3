//! x86-64: where things lie in guest memory, the state in which the vCPUs start, and their
//! whole state for snapshots.

pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod msr;
pub mod regs;
pub mod state;
