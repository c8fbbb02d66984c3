//! An archive becomes files of this host. All of it is hostile: nothing is made but in the directory that was
//! named, no device, and nothing with more rights than whoever copies it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use ampoule_protocol::archive::{Kind, Place, Rules};

use super::{ArchiveError, both};
use crate::image::digest::HashReader;
use crate::image::limits::Budget;
use crate::image::tar_stream::{Entry, Skip, TarError, TarStream};

/// What of an archive was not made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The first device.
    pub first: Option<String>,
    /// How many there were.
    pub devices: u64,
}

/// Makes the files of an archive in a directory, its top called `top` there (`.`: the directory itself). With
/// `owners` they have the owners that the container gave them.
pub fn extract(
    from: &mut dyn Read,
    directory: OwnedFd,
    top: &str,
    owners: bool,
    budget: &mut Budget,
) -> Result<Skipped, ArchiveError> {
    let rules = Rules { owners, set_ids: owners, devices: false, attributes: false };
    let mut place = Place::directory(directory, rules);
    let mut stream = TarStream::new(HashReader::counting(from));
    let mut skipped = Skipped::default();
    let mut buffer = vec![0; 128 << 10];
    while let Some(found) = stream.next(budget)? {
        budget.entry()?;
        // Directories and files are remembered.
        budget.metadata(found.path.len().saturating_add(found.link.len()).saturating_add(128))?;
        let entry = both(&found, top.as_bytes())?;
        if entry.kind == Kind::File {
            let file = place.file(&entry)?;
            fill(&file, &found, &mut stream, &mut buffer, budget)?;
            place.seal(file, &entry)?;
        } else if !place.other(&entry)? {
            skipped.devices += 1;
            skipped.first.get_or_insert_with(|| found.display());
        }
    }
    place.finish()?;
    Ok(skipped)
}

/// Writes the data of a file; its holes stay holes.
fn fill<R: Skip>(
    file: &File,
    entry: &Entry,
    stream: &mut TarStream<R>,
    buffer: &mut [u8],
    budget: &mut Budget,
) -> Result<(), ArchiveError> {
    let failed = ArchiveError::io("write a copied file");
    for extent in &entry.extents {
        let (mut at, end) = (extent.offset, extent.offset + extent.length);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let Some(chunk) = buffer.get_mut(..wanted) else { break };
            let read = stream.read_data(chunk)?;
            let Some(chunk) = chunk.get(..read).filter(|chunk| !chunk.is_empty()) else {
                return Err(TarError::Truncated { position: stream.position() }.into());
            };
            budget.unpacked(chunk.len() as u64)?;
            budget.stored(chunk.len() as u64)?;
            file.write_all_at(chunk, at).map_err(&failed)?;
            at += chunk.len() as u64;
        }
    }
    file.set_len(entry.size).map_err(&failed)
}

#[cfg(test)]
mod tests;
