//! `references.json`: which name means which image.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::StoreError;

/// Names and the ids of their images.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct References(BTreeMap<Reference, Digest>);

impl References {
    /// Reads the file; no file means no names.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(StoreError::io("reading", path)(error)),
        };
        parse(&text)
            .map(Self)
            .map_err(|source| StoreError::Damaged { path: path.to_owned(), source })
    }

    /// Replaces the file as a whole, so that it is never half written.
    pub fn write(&self, path: &Path) -> Result<(), StoreError> {
        self.prepare(path)?.commit()
    }

    /// Writes a new file beside the old one: all that a full disk can keep from happening.
    pub fn prepare(&self, path: &Path) -> Result<Prepared, StoreError> {
        let failed = StoreError::io("writing", path);
        let names: BTreeMap<String, String> =
            self.0.iter().map(|(name, id)| (name.to_string(), id.to_string())).collect();
        let text = serde_json::to_vec_pretty(&names).map_err(|error| failed(error.into()))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut new = NamedTempFile::new_in(directory).map_err(&failed)?;
        new.write_all(&text).map_err(&failed)?;
        new.as_file().sync_all().map_err(&failed)?;
        Ok(Prepared { new, path: path.to_owned() })
    }

    /// Which image `name` means.
    pub fn get(&self, name: &Reference) -> Option<Digest> {
        self.0.get(name).copied()
    }

    /// Names of the image `id`.
    pub fn of(&self, id: Digest) -> Vec<Reference> {
        let mine = self.0.iter().filter(|(_, image)| **image == id);
        mine.map(|(name, _)| name.clone()).collect()
    }

    /// From now on `name` means `id`.
    pub fn set(&mut self, name: Reference, id: Digest) {
        self.0.insert(name, id);
    }

    /// `name` means nothing any more.
    pub fn unset(&mut self, name: &Reference) {
        self.0.remove(name);
    }
}

/// Names that are written but not in force.
#[derive(Debug)]
pub struct Prepared {
    new: NamedTempFile,
    path: PathBuf,
}

impl Prepared {
    /// Puts the new file in the place of the old one.
    pub fn commit(self) -> Result<(), StoreError> {
        let Self { new, path } = self;
        new.persist(&path).map_err(|error| StoreError::io("writing", &path)(error.error))?;
        super::sync_directory(path.parent().unwrap_or(Path::new(".")))
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn parse(text: &[u8]) -> Result<BTreeMap<Reference, Digest>, Error> {
    let names: BTreeMap<String, String> = serde_json::from_slice(text)?;
    names.into_iter().map(|(name, id)| Ok((name.parse()?, id.parse()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("references.json");
        assert_eq!(References::read(&path).unwrap(), References::default());
        let mut references = References::default();
        let name: Reference = "busybox".parse().unwrap();
        references.set(name.clone(), Digest::of(b"a"));
        references.write(&path).unwrap();
        let again = References::read(&path).unwrap();
        assert_eq!(again.get(&name), Some(Digest::of(b"a")));
        assert_eq!(again.of(Digest::of(b"a")), [name]);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("references.json");
        for text in ["", "{", "[]", r#"{"Name": "sha256:1"}"#, r#"{"name": 1}"#] {
            fs::write(&path, text).unwrap();
            let error = References::read(&path).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { path: named, .. } if named == path));
        }
    }
}
