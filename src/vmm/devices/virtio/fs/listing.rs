//! Directories as a guest reads them: all names of the host's, and those that fuse-backend-rs leaves out.
//!
//! It looks up each name that it reads. The top is read here: what is mounted there is another share's.

use std::cell::Cell;
use std::io;
use std::ops::RangeInclusive;

use fuse_backend_rs::abi::fuse_abi::ROOT_ID;
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem};
use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek};

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

/// What of a directory is read.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The open directory.
    pub handle: u64,
    /// Bytes that there is room for.
    pub size: u32,
    /// Where to begin.
    pub offset: u64,
    /// The guest is told of the files, not only of their names.
    pub nodes: bool,
}

/// Takes an entry that there is room for: 0 where there is none.
type Add<'a> = &'a mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>;

impl Guard {
    /// Adds what a directory has from an offset on, as far as there is room.
    pub(super) fn list(
        &self,
        context: &Context,
        directory: u64,
        mut part: Part,
        add: Add<'_>,
    ) -> io::Result<()> {
        self.one_more()?;
        part.size = part.size.clamp(*DIRECTORY.start(), *DIRECTORY.end());
        let Some(offset) = self.list_itself(context, directory, part.offset, add)? else {
            return Ok(());
        };
        part.offset = offset;
        if directory == ROOT_ID {
            return self.list_top(context, part, add);
        }
        let mut empty = false;
        for _ in 0..VANISHED_RETRIES {
            match self.list_share(context, directory, part, add) {
                // Removed on the host since the names were read: they are read again.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                // Or the directory's end, if it is found so twice.
                Ok(false) if !empty => empty = true,
                result => return result.map(drop),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    /// A directory of a share. Tells whether anything was added.
    fn list_share(
        &self,
        context: &Context,
        node: u64,
        part: Part,
        add: Add<'_>,
    ) -> io::Result<bool> {
        let (share, directory) = self.nodes.find(node)?;
        let added = Cell::new(false);
        let mut add = |listed: DirEntry<'_>, entry: Entry| {
            // The first one always fits: an answer without any is the directory's end.
            if added.get() && self.one_more().is_err() {
                return Ok(0);
            }
            let inode = entry.inode;
            let entry =
                if part.nodes { self.entry(&share, directory, entry)? } else { Entry::default() };
            let result = add(listed, entry);
            // What is not added is forgotten by fuse-backend-rs, unless that is an error.
            match result {
                Ok(0) if part.nodes => self.nodes.untell(&share, 1),
                Ok(1..) if part.nodes => added.set(true),
                Ok(0) => {}
                Err(_) if part.nodes => self.nodes.forget(entry.inode, 1),
                Ok(_) | Err(_) => {
                    added.set(added.get() || result.is_ok());
                    share.files.forget(context, inode, 1);
                }
            }
            result
        };
        let Part { handle, size, offset, .. } = part;
        share.files.readdirplus(context, directory, handle, size, offset, &mut add)?;
        Ok(added.get())
    }

    /// The top. Of entries that come and go the guest is told by their names alone, and looks up those
    /// that it uses.
    fn list_top(&self, context: &Context, part: Part, add: Add<'_>) -> io::Result<()> {
        // The handle says that the guest may read it.
        self.nodes.top.files.getattr(context, ROOT_ID, Some(part.handle))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(&self.root, c".", flags, Mode::empty())?;
        seek(&directory, SeekFrom::Start(part.offset))?;
        let mut buffer = Vec::with_capacity(usize::try_from(part.size).unwrap_or(0));
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(listed) = entries.next() {
            let listed = listed?;
            let name = listed.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let entry = if part.nodes && !self.top_timeout.is_zero() && self.one_more().is_ok() {
                // What is gone by now, and what cannot be looked up, has a name all the same.
                self.find(context, ROOT_ID, name).unwrap_or_default()
            } else {
                Entry::default()
            };
            let ino = if entry.inode == 0 { listed.ino() } else { entry.attr.st_ino };
            let kind = match listed.file_type() {
                FileType::Unknown => libc::DT_UNKNOWN.into(),
                kind => kind.as_raw_mode() >> 12,
            };
            let offset = listed.next_entry_cookie();
            let added = add(DirEntry { ino, offset, type_: kind, name: name.to_bytes() }, entry);
            if !matches!(added, Ok(1..)) {
                self.nodes.forget(entry.inode, 1);
                return added.map(drop);
            }
        }
        Ok(())
    }

    /// Lists "." and "..", which fuse-backend-rs leaves out. The offset behind them; none if there
    /// was no room for both.
    fn list_itself(
        &self,
        context: &Context,
        directory: u64,
        offset: u64,
        add: Add<'_>,
    ) -> io::Result<Option<u64>> {
        let names: &[(&[u8], u64)] = match offset {
            0 => &[(b".", BEHIND_SELF), (b"..", BEHIND_PARENT)],
            BEHIND_SELF => &[(b"..", BEHIND_PARENT)],
            BEHIND_PARENT => &[],
            within => return Ok(Some(within)),
        };
        // The parent's number is the guest's to know.
        let (share, inode) = self.nodes.find(directory)?;
        let (attr, _) = share.files.getattr(context, inode, None)?;
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
