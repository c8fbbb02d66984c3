//! x86-64: where things lie in guest memory, and the state in which the vCPUs start.

pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod msr;
pub mod regs;
