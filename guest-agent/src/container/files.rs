//! Small files that a container gets from its host: written where its mounts take them from.

use std::fs;
use std::path::Path;

use ampoule_protocol::FILES;
use ampoule_protocol::message::{Create, SmallFile};

use super::name;
use crate::error::{Doing, Error, Result};

/// Refuses what is no file's name.
pub fn check(files: &[SmallFile]) -> Result<()> {
    if files.len() > Create::MAX_FILES {
        return Err(Error::Invalid(format!("{} files", files.len())));
    }
    files.iter().try_for_each(|file| name::check("file", &file.name))
}

/// Writes them; the container has no other of its name.
pub fn write(container: &str, files: &[SmallFile]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let folder = Path::new(FILES).join(container);
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    for SmallFile { name, contents } in files {
        let path = Create::file(container, name);
        fs::write(&path, contents).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Removes what there is of a container's.
pub fn remove(container: &str) {
    // Most have none.
    let _ = fs::remove_dir_all(Path::new(FILES).join(container));
}
