//! What an installation has put where, written down beside it: what its undoing goes by.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{SystemError, file};

/// Version of the file; another one is refused.
const VERSION: u32 = 1;

/// Largest record that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// See the module. Paths are those of the system that it was installed into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) version: u32,
    /// The ampoule that was installed.
    pub ampoule: String,
    /// Files and links.
    pub files: Vec<PathBuf>,
    /// What containerd was told.
    #[serde(default)]
    pub containerd: Option<Configured>,
    /// containerd has not been restarted by us since.
    #[serde(default)]
    pub unread: bool,
}

/// A change of containerd's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configured {
    /// Its file.
    pub config: PathBuf,
    /// The file as it was before, kept beside it; none where there was none.
    pub backup: Option<PathBuf>,
    /// Checksum of what was written; none where the file was left as it was.
    pub written: Option<String>,
    /// What else than the runtime was added to it.
    pub added: Added,
    /// A file of ours that it imports.
    pub drop_in: Option<PathBuf>,
}

/// What had to be added for the runtime's sake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// The runtime itself.
    pub runtime: bool,
    /// runc, which containerd knows of itself only as long as no other is named.
    pub runc: bool,
    /// A place in the list of imports.
    pub import: bool,
}

impl Record {
    /// Of an installation that is about to be made.
    pub fn new(files: Vec<PathBuf>, containerd: Option<Configured>, unread: bool) -> Self {
        let ampoule = env!("CARGO_PKG_VERSION").to_owned();
        Self { version: VERSION, ampoule, files, containerd, unread }
    }

    /// Reads one; none where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, SystemError> {
        let wrong = |reason: String| SystemError::Record { path: path.to_owned(), reason };
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => {
                if other.map_err(file("look at", path))?.len() > LIMIT {
                    return Err(wrong("it is too large".into()));
                }
            }
        }
        let bytes = fs::read(path).map_err(file("read", path))?;
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if record.version != VERSION {
            return Err(wrong(format!("it has version {}", record.version)));
        }
        Ok(Some(record))
    }

    /// As it is written.
    pub fn bytes(&self) -> Vec<u8> {
        // Strings, lists and numbers: nothing of it cannot be written.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
