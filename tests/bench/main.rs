//! `ampoule bench`, on a host where sandboxes boot.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod start;
