//! Guests and agents that attack their host: each attack is one test.
//!
//! A hostile guest (`guest/`) is a program of its own on the bare machine, which drives the devices'
//! registers and rings by hand. It tells how many hostile things it has done, and ends with sound
//! requests to every device, which have to be answered. A hostile agent (`agent.c`) is the first
//! process of an ordinary guest.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod block;
mod endings;
mod fs;
mod guest;
mod memory;
mod neighbours;
mod net;
mod platform;
mod program;
mod rings;
mod storm;
mod transport;
mod vsock;
