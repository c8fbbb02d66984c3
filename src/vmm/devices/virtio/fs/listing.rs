//! Directories as a guest reads them: all names of the host's, and those that fuse-backend-rs leaves out.

use std::cell::Cell;
use std::io;
use std::ops::RangeInclusive;

use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem};

use super::guard::Guard;

/// Bytes of directory entries that are read at once on the host: where there is room for none but
/// "." and "..", which are left out, the directory would seem to end.
const DIRECTORY: RangeInclusive<u32> = 1 << 12..=1 << 17;

/// Offsets in a directory behind "." and "..": no file system of the host has as many entries, or
/// hashes of names in its last places.
const BEHIND_SELF: u64 = BEHIND_PARENT - 1;
const BEHIND_PARENT: u64 = i64::MAX as u64 - 8;

/// How often a directory is read anew whose first entry vanished while it was read.
const VANISHED_RETRIES: u32 = 16;

impl Guard {
    /// Adds what a directory has from an offset on, as far as there is room.
    pub(super) fn list(
        &self,
        context: &Context,
        directory: u64,
        (handle, size, offset): (u64, u32, u64),
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.one_more()?;
        let size = size.clamp(*DIRECTORY.start(), *DIRECTORY.end());
        let Some(offset) = self.list_itself(context, directory, offset, add)? else {
            return Ok(());
        };
        let added = Cell::new(false);
        let mut add = |listed: DirEntry<'_>, entry: Entry| {
            // The first one always fits: an answer without any is the directory's end.
            if added.get() && self.one_more().is_err() {
                return Ok(0);
            }
            let entry = self.found(directory, listed.name, entry);
            add(listed, entry).inspect(|n| added.set(added.get() || *n > 0))
        };
        let mut empty = false;
        for _ in 0..VANISHED_RETRIES {
            match self.files.readdirplus(context, directory, handle, size, offset, &mut add) {
                // Removed on the host since the names were read: they are read again.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                // Or the directory's end, if it is found so twice.
                Ok(()) if !added.get() && !empty => empty = true,
                result => return result,
            }
        }
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    /// Lists "." and "..", which fuse-backend-rs leaves out. The offset behind them; none if there
    /// was no room for both.
    fn list_itself(
        &self,
        context: &Context,
        directory: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<Option<u64>> {
        let names: &[(&[u8], u64)] = match offset {
            0 => &[(b".", BEHIND_SELF), (b"..", BEHIND_PARENT)],
            BEHIND_SELF => &[(b"..", BEHIND_PARENT)],
            BEHIND_PARENT => &[],
            within => return Ok(Some(within)),
        };
        // The parent's number is the guest's to know.
        let (attr, _) = self.files.getattr(context, directory, None)?;
        for (name, offset) in names {
            let listed =
                DirEntry { ino: attr.st_ino, offset: *offset, type_: libc::DT_DIR.into(), name };
            // Without a node: the guest has looked it up already.
            if add(listed, Entry::default())? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(0))
    }
}
