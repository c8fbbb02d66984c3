//! The files in which a kernel tells of itself, below a root that tests choose.

use std::fs;
use std::path::{Path, PathBuf};

/// `/proc` and `/sys` of a host.
#[derive(Debug, Clone)]
pub struct HostFiles(PathBuf);

impl HostFiles {
    /// Those of this host.
    pub fn here() -> Self {
        Self("/".into())
    }

    /// Those below another folder.
    #[cfg(test)]
    pub fn below(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// A file's text without the white space around it; none where it is not there or cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read(self.0.join(path)).ok()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// Names of a folder's files, sorted; none where there is no such folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether the file is there.
    pub fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// A host that has just these files.
    pub fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        let files = HostFiles::below(root.path());
        (root, files)
    }
}
