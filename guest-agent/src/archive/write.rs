//! An archive becomes files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ampoule_protocol::archive::{Entry, Extended, Kind, Place, Rules};
use nix::fcntl::OFlag;

use super::failed;
use crate::error::{Doing, Result};
use crate::setup::Root;

/// The container has the archive's owners, modes and devices: they are its own affair.
const RULES: Rules = Rules { owners: true, set_ids: true, devices: true, attributes: true };

/// A directory of the container.
///
/// # Errors
/// There is none at that path.
pub fn place(root: Root, directory: &Path) -> Result<Place> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    root.open_in(directory, flags).doing(|| format!("open {}", directory.display()))?;
    Ok(Place::in_root(root.into(), directory, RULES))
}

/// Places the files of an archive there.
pub fn unpack(mut place: Place, from: &mut dyn Read) -> Result<()> {
    let read = || "read the archive";
    let mut archive = tar::Archive::new(from);
    let mut extended = Extended::default();
    for entry in archive.entries().doing(read)?.raw(true) {
        let mut data = entry.doing(read)?;
        let Some(entry) = Entry::read(&mut data, &mut extended).doing(read)? else { continue };
        if entry.kind == Kind::File {
            let file = place.file(&entry).map_err(|error| failed(&error))?;
            let file = fill(file, &mut data)
                .doing(|| format!("write {:?}", String::from_utf8_lossy(&entry.path)))?;
            place.seal(file, &entry).map_err(|error| failed(&error))?;
        } else {
            place.other(&entry).map_err(|error| failed(&error))?;
        }
    }
    place.finish().map_err(|error| failed(&error))
}

fn fill(mut file: File, data: &mut dyn Read) -> io::Result<File> {
    io::copy(data, &mut file)?;
    Ok(file)
}
