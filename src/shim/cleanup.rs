//! `delete`: what a shim that was killed has left is cleared away. Its monitor has gone with it.

use std::path::{Path, PathBuf};

use containerd_shim::Flags;
use containerd_shim::protos::api::DeleteResponse;
use containerd_shim::protos::protobuf::Message;

use super::error::{ShimError, host};
use super::process::{Exit, KILLED};
use super::spec::Kind;
use super::{bootstrap, rootfs, sandbox};
use crate::oci::{self, cgroup, network};
use crate::report::chain;
use crate::sandbox::{Places, Registry};

/// Runs the action. What cannot be cleared away is told, and keeps nothing else from being so.
pub fn delete(flags: &Flags) -> Result<(), ShimError> {
    let bundle = if flags.bundle.is_empty() {
        std::env::current_dir().map_err(host("tell the working directory"))?
    } else {
        PathBuf::from(&flags.bundle)
    };
    for cleared in [rootfs::unmount(&bundle.join(rootfs::FOLDER)), sweep(), clear_host(&bundle)] {
        if let Err(error) = cleared {
            eprintln!("{}", chain(&error));
        }
    }
    let exit = Exit::now(KILLED);
    let response = DeleteResponse {
        exit_status: exit.status,
        exited_at: exit.timestamp(),
        ..Default::default()
    };
    let reply = response.write_to_bytes().map_err(containerd_shim::Error::from)?;
    bootstrap::answer(&reply)
}

/// Folders of sandboxes that nobody holds any more.
fn sweep() -> Result<(), ShimError> {
    let swept = Registry::new(&Places::of_environment()).sweep();
    swept.map_err(|error| ShimError::Sandbox(error.into()))
}

/// What the sandbox of this bundle had of the host's.
fn clear_host(bundle: &Path) -> Result<(), ShimError> {
    let spec = oci::read_spec(&bundle.join("config.json"))?;
    if matches!(Kind::of(&spec)?, Kind::PodContainer { .. }) {
        // That is its pod's.
        return Ok(());
    }
    let cleared = network::clear(&spec).map_err(ShimError::from);
    if let Some(group) = sandbox::group(&spec)? {
        cgroup::remove(&group)?;
    }
    cleared
}
