//! The machine: KVM, memory, vCPUs, boot and devices. Knows nothing of containers.

pub mod config;
pub mod devices;
