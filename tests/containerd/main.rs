//! containerd with ampoule's shim: by `ctr`, and through the interface that Kubernetes uses (CRI).
//!
//! Each test runs with one runtime, `ampoule` if `AMPOULE_TEST_RUNTIME` does not say `runc`: what holds for
//! both is no fault of the test. `AMPOULE_TEST_SHIMS` names the folder of another shim than the one beside the
//! test's `ampoule`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod ctr;
mod direct;
mod killed;
mod lab;
mod many;
mod pod;
mod pods;
mod resources;
mod restart;
mod told;
mod volumes;
