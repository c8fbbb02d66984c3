//! `ampoule-oci`, the OCI runtime: by itself, and as podman and buildah use it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod buildah;
mod console;
mod engine;
mod exec;
mod faults;
mod files;
mod hooks;
mod lab;
mod life;
mod network;
mod podman;
mod refused;
mod streams;
mod verbs;
