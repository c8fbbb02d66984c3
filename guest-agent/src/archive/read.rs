//! Files become an archive.

use std::io::Write;
use std::os::fd::OwnedFd;

use ampoule_protocol::archive::{Contents, Owners, Packer};

use super::failed;
use crate::error::Result;

/// Packs a file, and all that is below it, under the name `.`.
pub fn pack(file: OwnedFd, contents: Contents, to: &mut dyn Write) -> Result<()> {
    let mut packer = Packer::new(to, contents, Owners::Kept);
    packer.tree(file, b".".to_vec()).map_err(|error| failed(&error))?;
    packer.finish().map(drop).map_err(|error| failed(&error))
}
