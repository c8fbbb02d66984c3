//! `ampoule run` and what belongs to it, each test in sandboxes of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod bad_input;
mod build;
mod detached;
mod faults;
mod fork;
mod image_config;
mod jail;
mod joined;
mod layer;
mod lifecycle;
mod load;
mod memory;
mod mounts;
mod programs;
mod pulled;
#[path = "../registry/real.rs"]
#[allow(dead_code)] // each facet uses its own part
mod real;
mod resources;
mod rootless;
mod sealed;
mod stats;
mod streams;
mod terminal;
mod volumes;
mod warm;
