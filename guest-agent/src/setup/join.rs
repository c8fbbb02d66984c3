//! A further process of a container that runs.
//!
//! The root is the container's own and its processes change it as they like: nothing here trusts
//! what a path leads to.

use super::create::Setting;
use super::hooks::Hooks;
use super::paths::Root;
use super::{Prepared, create, has_terminal, terminal};
use crate::error::{Doing, Result};

/// Sets up the process, inside the namespaces.
pub fn prepare(setting: Setting) -> Result<Prepared> {
    nix::unistd::setsid().doing(|| "start a session")?;
    let pty = if has_terminal(&setting.process) {
        Some(terminal::open(&Root::open("/")?, setting.process.console_size())?)
    } else {
        None
    };
    create::prepare_process(setting, pty, Hooks::default())
}
