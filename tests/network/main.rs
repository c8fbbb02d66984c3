//! Networks of containers, each test in network namespaces of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod egress;
mod faults;
mod lab;
mod names;
mod published;
mod refused;
mod spoofed;
mod traffic;
mod unprivileged;
