//! `ampoule vm run`: machines that boot a kernel, and a busybox that runs a test's script.

#[path = "../support/mod.rs"]
mod support;

mod arguments;
mod console;
mod disks;
mod endings;
mod kernels;
mod machine;
mod network;
mod vsock;
