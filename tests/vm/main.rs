//! `ampoule vm run`: machines that boot a kernel, and a busybox that runs a test's script.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod arguments;
mod console;
mod disks;
mod endings;
mod kernels;
mod machine;
mod network;
mod shares;
mod snapshot;
mod vsock;
