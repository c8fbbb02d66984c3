//! What is kept of a container beside its sandbox: the file `state.json` of its folder.

use std::collections::HashMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sandbox::Places;

/// Where a container is in its life, as the runtime specification has it, and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its process waits to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// The same, before its program was started.
    PausedCreated,
    /// It has ended.
    Stopped,
}

impl Status {
    /// As `state` tells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused | Self::PausedCreated => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// `ociVersion` of its `config.json`.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// As it was last told; that of a container without a keeper is [`Status::Stopped`].
    pub status: Status,
    /// Its keeper's pid.
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was created.
    pub created: Timestamp,
    /// Annotations of its `config.json`.
    pub annotations: HashMap<String, String>,
    /// The Unix socket behind which its guest's vsock ports are.
    pub vsock: PathBuf,
    /// Where its sandbox's folder is.
    pub places: Places,
    /// Control groups of the host that were made for it.
    pub cgroups: Vec<PathBuf>,
    /// Why it ended, where that was not its program's doing.
    #[serde(skip)]
    pub failure: Option<String>,
}

/// The state, as the specification and runc have it.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    #[serde(rename = "ociVersion")]
    oci_version: &'a str,
    id: &'a str,
    /// 0 where it has stopped.
    pub pid: i32,
    status: &'static str,
    bundle: &'a PathBuf,
    rootfs: &'a PathBuf,
    created: Timestamp,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: &'a str,
    /// Beyond the specification: why a container ended whose program did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Record {
    /// What `state` and hooks are told.
    pub fn told(&self) -> Told<'_> {
        self.told_of("")
    }

    /// What is told of its process's pid: 0 where there is no process.
    pub fn told_pid(&self) -> i32 {
        if self.status == Status::Stopped { 0 } else { self.pid }
    }

    /// What `list` is told: whose it is, too.
    pub fn told_of<'a>(&'a self, owner: &'a str) -> Told<'a> {
        Told {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: self.told_pid(),
            status: self.status.name(),
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: self.created,
            annotations: &self.annotations,
            owner,
            error: self.failure.as_deref(),
        }
    }
}
