//! `ampoule run` and what belongs to it, each test in sandboxes of its own.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod detached;
mod faults;
mod image_config;
mod programs;
mod sealed;
mod streams;
mod terminal;
