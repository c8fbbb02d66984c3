//! What is done to a system's files. A file is written beside its place, on the disk whole, and then takes
//! it: whoever has the old one open, a running sandbox for one, keeps it.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempPath};

use super::error::{SystemError, file};

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What another file holds.
    CopyOf(PathBuf),
}

/// One step; paths are those of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file is put in place; with the mode and owner of the one that it replaces, where it `keeps` them.
    Write {
        /// its place
        path: PathBuf,
        /// what it holds
        contents: Contents,
        /// its mode, where there is none to keep
        mode: u32,
        /// whether it is somebody else's file
        keeps: bool,
    },
    /// A link is put in place.
    Link {
        /// its place
        path: PathBuf,
        /// where it leads
        target: PathBuf,
    },
    /// A file or link goes.
    Remove {
        /// which
        path: PathBuf,
    },
}

impl Step {
    /// The file, or link.
    pub fn path(&self) -> &Path {
        match self {
            Self::Write { path, .. } | Self::Link { path, .. } | Self::Remove { path } => path,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Write { path, contents, mode, keeps } => {
                let right = |there: &fs::Metadata| {
                    there.is_file() && (*keeps || there.mode() & 0o7777 == *mode)
                };
                fs::symlink_metadata(path).is_ok_and(|there| right(&there))
                    && contents.are_in(path).unwrap_or(false)
            }
            Self::Link { path, target } => fs::read_link(path).is_ok_and(|there| there == *target),
            Self::Remove { path } => fs::symlink_metadata(path).is_err(),
        }
    }

    /// Does what can fail for want of space, and changes nothing yet.
    fn prepare(&self) -> Result<Prepared<'_>, SystemError> {
        let folder = self.path().parent().unwrap_or(Path::new("/"));
        let prepared = match self {
            Self::Remove { .. } => return Ok(Prepared::Remove(self.path())),
            Self::Write { path, contents, mode, keeps } => {
                fs::create_dir_all(folder).map_err(file("create", folder))?;
                let there = keeps.then(|| fs::metadata(path).ok()).flatten();
                write(folder, contents, *mode, there.as_ref())
                    .map(|made| Prepared::File(made, path))
            }
            Self::Link { path, target } => {
                fs::create_dir_all(folder).map_err(file("create", folder))?;
                let made = beside().make_in(folder, |made| symlink(target, made));
                made.map(|made| Prepared::Link(made.into_temp_path(), path))
            }
        };
        prepared.map_err(file("write", self.path()))
    }
}

impl Contents {
    fn are_in(&self, path: &Path) -> io::Result<bool> {
        let there = fs::read(path)?;
        Ok(match self {
            Self::Bytes(bytes) => there == *bytes,
            Self::CopyOf(source) => there == fs::read(source)?,
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, contents: Contents::Bytes(_), .. } => {
                write!(f, "write {}", path.display())
            }
            Self::Write { path, contents: Contents::CopyOf(source), .. } => {
                write!(f, "copy {} to {}", source.display(), path.display())
            }
            Self::Link { path, target } => {
                write!(f, "link {} to {}", path.display(), target.display())
            }
            Self::Remove { path } => write!(f, "remove {}", path.display()),
        }
    }
}

/// A step but for its last, short part. Dropped, nothing of it is left.
enum Prepared<'a> {
    File(NamedTempFile, &'a Path),
    Link(TempPath, &'a Path),
    Remove(&'a Path),
}

/// Does all steps, in their order; none where one cannot be prepared.
pub fn take(steps: &[Step]) -> Result<(), SystemError> {
    let prepared = steps.iter().map(Step::prepare).collect::<Result<Vec<_>, _>>()?;
    for step in prepared {
        let path = step.finish()?;
        // So that it is there after a loss of power, too.
        if let Some(folder) = path.parent() {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(file("sync", folder))?;
        }
    }
    Ok(())
}

impl<'a> Prepared<'a> {
    fn finish(self) -> Result<&'a Path, SystemError> {
        match self {
            Self::File(made, path) => {
                made.persist(path).map_err(|error| file("replace", path)(error.error))?;
                Ok(path)
            }
            Self::Link(made, path) => {
                made.persist(path).map_err(|error| file("replace", path)(error.error))?;
                Ok(path)
            }
            Self::Remove(path) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(file("remove", path)(error))
                }
                _ => Ok(path),
            },
        }
    }
}

/// Names of what is not in place yet.
fn beside() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(".ampoule-");
    builder
}

fn write(
    folder: &Path,
    contents: &Contents,
    mode: u32,
    there: Option<&fs::Metadata>,
) -> io::Result<NamedTempFile> {
    let mut made = beside().tempfile_in(folder)?;
    match contents {
        Contents::Bytes(bytes) => made.write_all(bytes)?,
        Contents::CopyOf(source) => {
            io::copy(&mut File::open(source)?, made.as_file_mut())?;
        }
    }
    let file = made.as_file();
    match there {
        Some(there) => {
            fchown(file, Some(there.uid()), Some(there.gid()))?;
            file.set_permissions(Permissions::from_mode(there.mode() & 0o7777))?;
        }
        None => file.set_permissions(Permissions::from_mode(mode))?,
    }
    file.sync_all()?;
    Ok(made)
}
