//! Named volumes: directories that ampoule keeps, and that outlive the containers that have them.
//!
//! ```text
//! <data>/volumes/<name>/            _data · volume.json; made with one rename(2)
//! <data>/volumes/.new-<random>/     one that is being made, or was when its maker was killed
//! ```
//!
//! Whoever starts a container with a volume holds a shared lock of the volume's folder for as long as the
//! container lives; to remove a volume takes that lock alone. Containers that do not run are for the
//! caller to tell.

mod error;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use error::VolumeError;
pub use store::{Held, VolumeStore};

/// Longest name.
const LONGEST_NAME: usize = 128;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its files.
    pub mountpoint: PathBuf,
    /// What is written down of it.
    pub record: Record,
}

/// What is written down of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When it was made.
    pub created: Timestamp,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nobody chose its name: it was made for one container.
    #[serde(default)]
    pub anonymous: bool,
}

/// Whether a volume can have this name (docker's rule, with an end: it is a folder's name).
pub fn is_valid_name(name: &str) -> bool {
    (2..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A name that nobody chose, in docker's form.
pub fn random_name() -> Result<String, VolumeError> {
    crate::random::id().map_err(VolumeError::Random)
}
