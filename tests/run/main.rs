//! `ampoule run` and what belongs to it, each test in sandboxes of its own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod detached;
mod faults;
mod fork;
mod image_config;
mod jail;
mod memory;
mod programs;
mod pulled;
#[path = "../registry/real.rs"]
#[allow(dead_code)] // each facet uses its own part
mod real;
mod sealed;
mod stats;
mod streams;
mod terminal;
mod warm;
