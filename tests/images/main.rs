//! `ampoule load` and `ampoule image`, from archives to the files that a container will see. No
//! sandbox is booted.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod bad_input;
mod contents;
mod given;
mod imported;
mod interrupted;
mod lab;
mod names;
mod pruned;
mod verify;
