//! Copies of the layers that a load reads, on their way into the store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::digest::Digest;
use super::super::limits::{LimitError, Room};
use super::load::temporary_named;
use super::{LoadError, Locked, Store, StoreError};

/// Keeps layers in a folder until they are moved to the store together.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    folder: PathBuf,
    room: Room,
    /// Layers that the store has, held.
    held: Vec<File>,
    fresh: Vec<Digest>,
}

impl Keeper {
    /// One that writes into `folder`, which is there.
    pub fn new(store: &Store, folder: &Path) -> Self {
        let room = Room::new(&store.limits, folder);
        let (held, fresh) = (Vec::new(), Vec::new());
        Self { store: store.clone(), folder: folder.to_owned(), room, held, fresh }
    }

    /// Where a copy of a layer goes; none if it is in the store already.
    pub fn copy(
        &mut self,
        digest: Option<Digest>,
        size: u64,
    ) -> Result<Option<Copy<'_>>, StoreError> {
        if let Some(digest) = digest {
            if self.fresh.contains(&digest) {
                return Ok(None);
            }
            if let Some(file) = self.store.hold_blob(digest, size)? {
                self.held.push(file);
                return Ok(None);
            }
        }
        let file = temporary_named(&self.folder)?;
        Ok(Some(Copy { keeper: self, file, failed: None }))
    }

    /// Moves the copies to their places.
    pub fn install(&self, held: &Locked) -> Result<(), StoreError> {
        for digest in &self.fresh {
            self.store.keep_blob_locked(&self.folder.join(digest.hex()), *digest, held)?;
        }
        super::sync_directory(&self.store.blobs())
    }
}

/// A copy in the making.
#[derive(Debug)]
pub struct Copy<'a> {
    keeper: &'a mut Keeper,
    file: tempfile::NamedTempFile,
    failed: Option<LoadError>,
}

impl Copy<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let path = &self.keeper.folder;
        let fail = |error: LimitError| match error {
            LimitError::Disk => StoreError::Full { path: path.clone() },
            other => StoreError::io("writing", path)(io::Error::other(other)),
        };
        let room = self.keeper.room.stored(bytes.len() as u64).map_err(fail);
        let written = room.and_then(|()| {
            self.file.write_all(bytes).map_err(StoreError::io("writing", self.file.path()))
        });
        written.map_err(|error| {
            self.failed = Some(error.into());
            io::Error::other("the layer cannot be kept")
        })
    }

    /// Why it could not be written: better than what the reader made of it.
    pub fn failure(&mut self) -> Option<LoadError> {
        self.failed.take()
    }

    /// It is whole, and has this digest.
    pub fn finish(self, digest: Digest) -> Result<(), StoreError> {
        let Self { keeper, file, .. } = self;
        let path = keeper.folder.join(digest.hex());
        let failed = StoreError::io("writing", &path);
        file.as_file().sync_all().map_err(&failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        keeper.fresh.push(digest);
        Ok(())
    }
}

/// Writes what is read to a copy, where there is one.
pub struct Tee<'a, 'b, R> {
    /// what is read
    pub inner: R,
    /// where it goes as well
    pub copy: Option<&'a mut Copy<'b>>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(copy) = &mut self.copy {
            copy.write(buffer.get(..read).unwrap_or_default())?;
        }
        Ok(read)
    }
}
