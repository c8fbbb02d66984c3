//! What a container is, as it was asked for: written when it is made, read whenever it is started.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::options::Options;
use super::places::Places;
use super::registry::is_id;
use super::state::replace;
use crate::image::{Image, Store};

/// Version of the file; another one is refused.
const VERSION: u32 = 1;

/// Largest file that is read, in bytes: options are a command line's.
const LIMIT: u64 = 4 << 20;

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// the file could not be read or written
    #[error("cannot {what} the container's configuration {}", path.display())]
    File {
        /// read or write
        what: &'static str,
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// it is not what was written
    #[error(
        "the container's configuration {} is damaged: remove the container (ampoule rm) and make it \
         anew", path.display()
    )]
    Malformed {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: serde_json::Error,
    },
    /// it is another container's, or another ampoule's
    #[error("the container's configuration {} is not of this container, or of another version", .0.display())]
    Foreign(PathBuf),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Id of the container: 64 hexadecimal digits.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// The image's id (`sha256:…`): what its name meant then.
    pub image: String,
    /// What was asked for.
    pub options: Options,
}

impl Record {
    /// The record of a new container.
    pub fn new(id: String, image: String, options: Options) -> Self {
        Self { version: VERSION, id, created: Timestamp::now(), image, options }
    }

    /// The image that it was made of, if all accept it who have a say; its name may mean another by now.
    pub fn open_image(&self, places: &Places) -> Result<Image, SandboxError> {
        let image = Store::open(&places.data)?.get(&self.image)?;
        self.options.accept(&image)?;
        Ok(image)
    }

    /// Reads the record in a container's folder.
    pub fn read(folder: &Path) -> Result<Self, RecordError> {
        let path = file_in(folder);
        let failed = |source| RecordError::File { what: "read", path: path.clone(), source };
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
            .map_err(failed)?;
        if bytes.len() as u64 > LIMIT {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|source| RecordError::Malformed { path: path.clone(), source })?;
        let owner = folder.file_name().and_then(|name| name.to_str());
        if record.version != VERSION || !is_id(&record.id) || owner != Some(&record.id) {
            return Err(RecordError::Foreign(path));
        }
        Ok(record)
    }

    /// Writes it to a container's folder; a reader sees the old one or the new one, whole.
    pub fn write(&self, folder: &Path) -> Result<(), RecordError> {
        let path = file_in(folder);
        let bytes = serde_json::to_vec(self)
            .map_err(|source| RecordError::Malformed { path: path.clone(), source })?;
        replace(&path, &bytes).map_err(|source| RecordError::File { what: "write", path, source })
    }
}

fn file_in(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a".repeat(64));
        fs::create_dir(&folder).unwrap();
        (dir, folder)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, folder) = folder();
        let options = Options { image: "i".into(), env: vec!["A=1".into()], ..Options::default() };
        let record = Record::new("a".repeat(64), "sha256:1".into(), options);
        record.write(&folder).unwrap();
        assert_eq!(Record::read(&folder).unwrap(), record);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn one_of_another_container_is_refused() {
        let (_dir, folder) = folder();
        Record::new("b".repeat(64), String::new(), Options::default()).write(&folder).unwrap();
        assert!(matches!(Record::read(&folder), Err(RecordError::Foreign(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let (_dir, folder) = folder();
            fs::write(file_in(&folder), bytes).unwrap();
            prop_assert!(Record::read(&folder).is_err());
        }
    }
}
