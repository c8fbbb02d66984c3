//! What sandboxes are compared with, one peer a file.
//!
//! A peer that cannot take part is named with the reason; the others go on without it.

mod bundle;
mod firecracker;
pub mod oci_runtime;
mod qemu;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::Serialize;

use super::entrant::Entrant;
use super::interrupt::Interrupt;
use super::sandboxes::Mode;
use crate::image::Image;
use crate::sandbox::{Options, Places};

/// What the entrants are to start.
#[derive(Debug)]
pub struct Setting<'a> {
    /// Where this program keeps things.
    pub places: &'a Places,
    /// The image.
    pub image: &'a Image,
    /// Its name and the command in it, as `ampoule run` takes them.
    pub options: &'a Options,
    /// A folder for what the benchmark needs, removed after it.
    pub scratch: &'a Path,
    /// How sandboxes are started: a peer that knows both kinds takes part in the same.
    pub modes: &'a [Mode],
}

/// Programs to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// OCI runtime, in C
    Crun,
    /// OCI runtime, in Go
    Runc,
    /// VMM
    Firecracker,
    /// VMM, its `microvm` machine
    Qemu,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Crun, Self::Runc, Self::Firecracker, Self::Qemu];

    fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }

    /// The program that is looked for in `PATH`.
    fn program(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            other => other.name(),
        }
    }
}

/// A peer as the user names it: `NAME` or `NAME=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which one.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
}

/// The user's words for a peer are not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerNameError {
    /// nothing of that name can be compared with
    #[error("{0:?} cannot be compared with; there are crun, runc, firecracker and qemu")]
    Unknown(String),
    /// `NAME=` without a path
    #[error("{0}= wants the path of the program")]
    NoPath(&'static str),
}

impl FromStr for Peer {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, path) = text.split_once('=').map_or((text, None), |(n, p)| (n, Some(p)));
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.ok_or_else(|| PeerNameError::Unknown(name.to_owned()))?;
        match path {
            Some("") => Err(PeerNameError::NoPath(kind.name())),
            Some(path) => Ok(Self { kind, program: path.into() }),
            None => Ok(Self { kind, program: kind.program().into() }),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())
    }
}

/// A peer that does not take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why, and what would change that.
    pub reason: String,
}

impl Peer {
    /// Makes it ready: its entrants, of which there is one for each way that it starts.
    pub fn prepare(
        &self,
        setting: &Setting<'_>,
        interrupt: &Interrupt,
    ) -> Result<Vec<Entrant>, Missing> {
        let missing = |reason: String| Missing { name: self.to_string(), reason };
        let version = version(&self.program).map_err(missing)?;
        let entrants = match self.kind {
            Kind::Crun => oci_runtime::peer("crun", &self.program, version, setting, interrupt),
            Kind::Runc => oci_runtime::peer("runc", &self.program, version, setting, interrupt),
            Kind::Firecracker => firecracker::prepare(&self.program, version, setting, interrupt),
            Kind::Qemu => qemu::prepare(&self.program, version, setting),
        };
        entrants.map_err(|error| missing(crate::report::chain(error.as_ref())))
    }
}

/// Why a peer cannot be made ready: told, not acted upon.
pub type Unready = Box<dyn std::error::Error + Send + Sync>;

/// The first line of what the program says of its version.
fn version(program: &Path) -> Result<String, String> {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let said = said.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if program.components().count() == 1 => {
            format!("not installed: there is no {} in PATH", program.display())
        }
        std::io::ErrorKind::NotFound => format!("there is no {}", program.display()),
        _ => format!("{} cannot be started: {error}", program.display()),
    })?;
    let words = String::from_utf8_lossy(&said.stdout);
    match words.lines().next() {
        Some(line) if said.status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!("{} --version failed ({})", program.display(), said.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_go_by_name_and_path() {
        let crun = Peer { kind: Kind::Crun, program: "crun".into() };
        assert_eq!("crun".parse(), Ok(crun));
        let named = Peer { kind: Kind::Firecracker, program: "/opt/fc=1".into() };
        assert_eq!("firecracker=/opt/fc=1".parse(), Ok(named));
        assert_eq!("qemu".parse::<Peer>().unwrap().program, Path::new("qemu-system-x86_64"));
        assert_eq!("runc=".parse::<Peer>(), Err(PeerNameError::NoPath("runc")));
        assert_eq!("docker".parse::<Peer>(), Err(PeerNameError::Unknown("docker".into())));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = version(Path::new("/nonexistent/vmm")).unwrap_err();
        assert!(error.contains("/nonexistent/vmm"), "{error}");
        assert!(version(Path::new("false")).unwrap_err().contains("false --version failed"));
    }
}
