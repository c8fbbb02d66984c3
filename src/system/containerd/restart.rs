//! Restarts containerd, so that it reads its configuration. What runs in it goes on.

use std::process::Command;

use nix::unistd::{chdir, chroot};

use crate::system::{Place, SystemError};

/// Name of its unit.
const UNIT: &str = "containerd.service";

/// Has systemd restart it. Another root than this process's becomes this process's: the installation as it
/// is from then on.
pub fn restart(mut place: Place) -> Result<Place, SystemError> {
    let failed = |reason: String| SystemError::Restart(reason);
    if !place.is_running() {
        chroot(place.root())
            .and_then(|()| chdir("/"))
            .map_err(|errno| failed(format!("{}: {}", place.root().display(), errno.desc())))?;
        place = place.at_root();
    }
    let mut command = Command::new("systemctl");
    // The root of a host that is mounted somewhere is one all the same.
    command.args(["restart", UNIT]).env("SYSTEMD_IGNORE_CHROOT", "1");
    let status = command.status().map_err(|error| failed(format!("systemctl: {error}")))?;
    match status.success() {
        true => Ok(place),
        false => Err(failed(format!("systemctl restart {UNIT}: {status}"))),
    }
}
