//! Small files that a container gets from its host: written where its mounts take them from.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use ampoule_protocol::FILES;
use ampoule_protocol::message::{Create, SmallFile};

use super::name;
use crate::Agent;
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

/// Writes some of them anew, into the same files: those are what the container has mounted.
pub fn rewrite(agent: &Agent, container: &str, files: &[SmallFile]) -> Result<()> {
    check(files)?;
    let container = agent.containers.find(container)?;
    files.iter().try_for_each(|file| overwrite(&Create::file(&container.name, &file.name), file))
}

fn overwrite(path: &Path, SmallFile { name, contents }: &SmallFile) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).truncate(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: "file of the container", name: name.clone() });
        }
        opened => opened.doing(|| format!("open {}", path.display()))?,
    };
    file.write_all(contents.as_bytes()).doing(|| format!("write {}", path.display()))
}

/// Removes what there is of a container's.
pub fn remove(container: &str) {
    // Most have none.
    let _ = fs::remove_dir_all(Path::new(FILES).join(container));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_anew_in_its_place_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let file = |contents: &str| SmallFile { name: "hosts".into(), contents: contents.into() };
        let missing = overwrite(&path, &file("x"));
        assert!(matches!(missing, Err(Error::NotFound { .. })));
        fs::write(&path, "a longer text than before").unwrap();
        let mounted = fs::File::open(&path).unwrap();
        overwrite(&path, &file("127.0.0.1\tlocalhost\n")).unwrap();
        assert_eq!(io::read_to_string(mounted).unwrap(), "127.0.0.1\tlocalhost\n");
    }
}
