//! A bundle: a folder with a `config.json` and what that names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;

/// Largest `config.json` that is read, in bytes: far above any real one, and what a request to the
/// agent can carry.
const CONFIG_LIMIT: u64 = 3 << 20;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// the file is not there or cannot be read
    #[error("JSON specification file {} cannot be read", path.display())]
    Read {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// beyond the limit
    #[error("{} is larger than {CONFIG_LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// not the JSON of the specification
    #[error("{} is invalid: {field}", path.display())]
    Invalid {
        /// the file
        path: PathBuf,
        /// where in it
        field: String,
        /// what is wrong there
        #[source]
        source: serde_json::Error,
    },
    /// another version of the specification
    #[error("{}: ociVersion {version:?} is not supported: 1.0 and later are", path.display())]
    Version {
        /// the file
        path: PathBuf,
        /// the version
        version: String,
    },
}

/// A bundle's folder and the bytes of its `config.json`.
#[derive(Debug)]
pub struct Bundle {
    /// Absolute path of the folder.
    pub path: PathBuf,
    /// `config.json`, as it is.
    pub config: Vec<u8>,
    /// What it says.
    pub spec: Spec,
}

impl Bundle {
    /// Opens the bundle in `folder`.
    pub fn open(folder: &Path) -> Result<Self, BundleError> {
        let path = std::fs::canonicalize(folder)
            .map_err(|source| BundleError::Read { path: folder.to_owned(), source })?;
        let file = path.join("config.json");
        let config = read_bytes(&file)?;
        let spec = parse(&file, &config)?;
        Ok(Self { path, config, spec })
    }
}

/// Reads a container's configuration.
pub fn read(path: &Path) -> Result<Spec, BundleError> {
    parse(path, &read_bytes(path)?)
}

/// Reads a process, as `exec --process` gets it.
pub fn read_process(path: &Path) -> Result<Process, BundleError> {
    parse_json(path, &read_bytes(path)?)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(CONFIG_LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > CONFIG_LIMIT {
        return Err(BundleError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Spec, BundleError> {
    let spec: Spec = parse_json(path, bytes)?;
    if !spec.version().starts_with("1.") {
        let version = spec.version().clone();
        return Err(BundleError::Version { path: path.to_owned(), version });
    }
    Ok(spec)
}

/// With the way to the field that is wrong.
fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, BundleError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        BundleError::Invalid { path: path.to_owned(), field, source: error.into_inner() }
    })?;
    json.end().map_err(|source| BundleError::Invalid {
        path: path.to_owned(),
        field: "its end".into(),
        source,
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(config: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        crate::report::chain(&Bundle::open(folder.path()).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let text = error(r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":7}}"#);
        assert!(text.contains("process.args") && text.contains("invalid type"), "{text}");
        assert!(error(r#"{"ociVersion":"2.0.0"}"#).contains("2.0.0"));
        assert!(error("{").contains("EOF"));
        assert!(error(r#"{"ociVersion":"1.0.0"} x"#).contains("its end"));
        let missing = Bundle::open(Path::new("/nonexistent")).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent"));
    }
}
