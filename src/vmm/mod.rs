//! The machine: KVM, memory, vCPUs, boot and devices. Knows nothing of containers.
//!
//! * [`config`]: what a machine is made of
//! * [`machine`]: a machine from its configuration to its end
//! * [`boot`]: from a kernel file to guest memory
//! * [`memory`], [`kvm`], [`vcpu`], [`arch`]: what it stands on
//! * [`host`], [`opening`]: what it has of its host's, opened beforehand
//! * [`console`]: what the guest last said, and what that means
//! * [`exit`]: how it ends
//! * [`devices`]: what the guest sees
//! * [`rate`]: how much a device may do in a time
//! * [`snapshot`]: a machine written down, and brought back
//! * [`probe`]: whether KVM is there and real

pub mod arch;
pub mod boot;
pub mod config;
pub mod console;
pub mod devices;
pub mod exit;
pub mod host;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod opening;
pub mod probe;
pub mod rate;
pub mod snapshot;
pub mod vcpu;

#[cfg(test)]
mod test_kernel;
