//! Files that are copied from containers and to them, and what containers have changed.
//!
//! * [`Guest`]: what a container's agent is asked, be it that its guest was started for that alone
//! * [`names`]: what `cp SOURCE DESTINATION` means, as docker has it
//! * [`extract`]: an archive becomes files of this host
//! * [`relay`]: an archive becomes one of other names
//! * [`changes`]: what is told by `diff`
//!
//! No file system of a container is looked at here: its own guest reads and writes it, and what it tells is
//! hostile.

pub mod changes;
mod error;
pub mod extract;
mod guest;
pub mod names;
pub mod relay;
mod visit;

pub use error::ArchiveError;
pub use guest::Guest;
pub use visit::{Purpose, visit};

use ampoule_protocol::archive::{Entry, Kind};

use crate::image::tar_stream::{self, TarError};

/// An entry of an archive, with this name.
fn entry(found: &tar_stream::Entry, path: Vec<u8>, link: Vec<u8>) -> Entry {
    let xattrs = found.xattrs.iter();
    let named = |(name, value): &(Vec<u8>, Vec<u8>)| {
        Some((String::from_utf8(name.clone()).ok()?, value.clone()))
    };
    Entry {
        path,
        link,
        kind: match found.kind {
            tar_stream::Kind::File => Kind::File,
            tar_stream::Kind::HardLink => Kind::HardLink,
            tar_stream::Kind::Symlink => Kind::Symlink,
            tar_stream::Kind::Character(major, minor) => Kind::Character(major, minor),
            tar_stream::Kind::Block(major, minor) => Kind::Block(major, minor),
            tar_stream::Kind::Directory => Kind::Directory,
            tar_stream::Kind::Fifo => Kind::Fifo,
        },
        mode: found.mode.into(),
        uid: found.uid,
        gid: found.gid,
        mtime: found.mtime.0,
        size: found.size,
        xattrs: xattrs.filter_map(named).collect(),
    }
}

/// The name that a file gets that an archive has at `path`, where its top is to be called `top`.
fn renamed(path: &[u8], top: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    let refused =
        |source| ArchiveError::Name { path: String::from_utf8_lossy(path).into_owned(), source };
    let parts = crate::image::tree::clean(path).map_err(refused)?;
    let mut all = Vec::new();
    if top != b"." {
        all.push(top);
    }
    all.extend(parts);
    Ok(if all.is_empty() { b".".to_vec() } else { all.join(&b'/') })
}

/// Both names of an entry.
fn both(found: &tar_stream::Entry, top: &[u8]) -> Result<Entry, ArchiveError> {
    let path = renamed(&found.path, top)?;
    let link = match found.kind {
        tar_stream::Kind::HardLink => renamed(&found.link, top)?,
        tar_stream::Kind::Symlink if found.link.is_empty() || found.link.contains(&0) => {
            return Err(ArchiveError::Link(found.display()));
        }
        _ => found.link.clone(),
    };
    Ok(entry(found, path, link))
}

/// An archive that ends before its time.
fn truncated(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Tar(TarError::Truncated { .. }))
}
