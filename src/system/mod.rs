//! An installation of ampoule on a host: one program under three names, the guest's kernel and initramfs,
//! and, where it is asked for, containerd's knowledge of them.
//!
//! * [`install`], [`uninstall`]: what is to be done, as a list of steps that can be shown before it is
//! * [`step`]: one of them: a file or link that is put in place whole, or goes
//! * [`record`]: what was done, which is what `uninstall` undoes
//! * [`lock`]: one at a time
//! * [`containerd`]: the runtime in containerd's configuration
//!
//! Everything is below a root, which need not be the running system's: an image's, or a host's that is
//! mounted somewhere.

pub mod containerd;
mod error;
pub mod install;
mod lock;
pub mod record;
pub mod step;
pub mod uninstall;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use error::SystemError;

/// The program's own name.
pub const PROGRAM: &str = "ampoule";

/// Its other names, as links to it: what OCI callers and containerd look for.
pub const LINKS: [&str; 2] = ["ampoule-oci", "containerd-shim-ampoule-v2"];

/// Where an installation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
    prefix: PathBuf,
}

impl Place {
    /// Below `prefix`, a path of the system whose root is `root`.
    pub fn new(root: &Path, prefix: &Path) -> Result<Self, SystemError> {
        let absolute = |path: &Path| {
            let up = path.components().any(|part| part == std::path::Component::ParentDir);
            if up || !path.is_absolute() {
                return Err(SystemError::NotAbsolute(path.to_owned()));
            }
            Ok(path.to_owned())
        };
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        Ok(Self { root, prefix: absolute(prefix)? })
    }

    /// Where a path of that system is for this process.
    pub fn host(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether that system is the one that runs this process.
    pub fn is_running(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The same, once its root is this process's.
    fn at_root(self) -> Self {
        Self { root: "/".into(), prefix: self.prefix }
    }

    /// The root, for this process.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.prefix.join("bin")
    }

    /// Folder of the guest's files: where [`crate::sandbox::GuestFiles`] looks.
    pub fn guest(&self) -> PathBuf {
        self.prefix.join("lib/ampoule")
    }

    /// The record of the installation.
    pub fn record(&self) -> PathBuf {
        self.guest().join("installed.json")
    }
}

/// A checksum in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
