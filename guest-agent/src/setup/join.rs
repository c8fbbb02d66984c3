//! A further process of a container that runs.
//!
//! The root is the container's own and its processes change it as they like: nothing here trusts
//! what a path leads to.

use std::os::fd::OwnedFd;

use ampoule_protocol::message::UserName;
use oci_spec::runtime::Process;

use super::paths::Root;
use super::{Prepared, create, has_terminal, terminal};
use crate::error::{Doing, Result};

/// Sets up the process, inside the namespaces.
pub fn prepare(process: Process, name: Option<UserName>, stdio: Vec<OwnedFd>) -> Result<Prepared> {
    nix::unistd::setsid().doing(|| "start a session")?;
    let pty = if has_terminal(&process) {
        Some(terminal::open(&Root::open("/")?, process.console_size())?)
    } else {
        None
    };
    create::prepare_process(process, name, stdio, pty)
}
