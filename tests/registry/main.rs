//! `ampoule pull`, `push` and `login` with registries: Debian's docker-registry on the loopback
//! interface, and servers that no registry should be like. No sandbox is booted.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../images/lab.rs"]
#[allow(dead_code)] // each facet uses its own part
mod lab;
#[path = "../support/mod.rs"]
mod support;

mod authority;
mod fake;
mod faults;
mod hostile;
mod logins;
mod mirrors;
mod patience;
mod real;
mod resumed;
mod round_trip;
mod signed;
mod tags;
mod tls;
mod tokens;
