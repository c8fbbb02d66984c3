//! `downloads/`: layers that are on their way, and what is left of those whose pull was killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::digest::{Digest, Hasher};
use super::super::limits::Room;
use super::{Store, StoreError};

/// A layer that is wanted.
#[derive(Debug)]
pub(in crate::image) enum Wanted {
    /// it is there: nobody takes it away while this is open
    There(File),
    /// it has to be fetched, or the rest of it
    Missing(Box<Download>),
}

/// A layer on its way, which nobody else fetches meanwhile.
#[derive(Debug)]
pub struct Download {
    store: Store,
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    room: Room,
    /// Whether a part of it came by another pull.
    resumed: bool,
    /// How often it began anew.
    restarts: usize,
    _lock: FetchLock,
}

/// The lock of who fetches a layer. Its file goes with it.
#[derive(Debug)]
struct FetchLock {
    path: PathBuf,
    _file: File,
}

impl Drop for FetchLock {
    fn drop(&mut self) {
        // While it is locked: who waits for it finds that it is not the one of its name any more.
        let _ = fs::remove_file(&self.path);
    }
}

impl FetchLock {
    /// Waits for it.
    fn take(path: PathBuf) -> Result<Self, StoreError> {
        loop {
            let failed = StoreError::io("locking", &path);
            let file = open(&path).map_err(&failed)?;
            file.lock().map_err(&failed)?;
            let mine = file.metadata().map_err(&failed)?.ino();
            drop(failed);
            if fs::metadata(&path).is_ok_and(|named| named.ino() == mine) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Store {
    /// A layer, or the right to fetch it. Waits while another fetches it.
    pub(in crate::image) fn want(&self, digest: Digest, size: u64) -> Result<Wanted, StoreError> {
        if let Some(file) = self.hold_blob(digest, size)? {
            return Ok(Wanted::There(file));
        }
        let lock = FetchLock::take(self.downloads().join(format!("{}.lock", digest.hex())))?;
        if let Some(file) = self.hold_blob(digest, size)? {
            return Ok(Wanted::There(file));
        }
        let path = self.downloads().join(format!("{}.partial", digest.hex()));
        // Locked, so that no `prune` takes it in between.
        let held = self.lock_shared()?;
        let file = open(&path).map_err(StoreError::io("opening", &path))?;
        drop(held);
        let mut download = Download {
            store: self.clone(),
            digest,
            size,
            path,
            file,
            hasher: Hasher::default(),
            length: 0,
            room: Room::new(self.limits(), self.root()),
            resumed: false,
            restarts: 0,
            _lock: lock,
        };
        download.read_on()?;
        Ok(Wanted::Missing(Box::new(download)))
    }

    /// Whether the pull of a layer, of which `path` is a part, is going on.
    pub(super) fn is_fetched(path: &Path) -> bool {
        let lock = File::open(path.with_extension("lock"));
        lock.is_ok_and(|lock| lock.try_lock().is_err())
    }
}

impl Download {
    /// Hashes what there is from another pull.
    fn read_on(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = StoreError::io("reading", &path);
        let there = self.file.metadata().map_err(&failed)?.len();
        if there > self.size {
            return self.restart();
        }
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.hasher.update(buffer.get(..read).unwrap_or_default());
            self.length += read as u64;
        }
        self.resumed = self.length > 0;
        Ok(())
    }

    /// Bytes that are there.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether a part of it came by another pull.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// How often it began anew.
    #[must_use]
    pub fn restarts(&self) -> usize {
        self.restarts
    }

    /// Begins anew.
    ///
    /// # Errors
    ///
    /// If the file cannot be made empty.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(StoreError::io("writing", &self.path))?;
        (self.hasher, self.length, self.resumed) = (Hasher::default(), 0, false);
        self.restarts += 1;
        Ok(())
    }

    /// `bytes` more of it.
    ///
    /// # Errors
    ///
    /// If there is no room for them, or they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.room.stored(bytes.len() as u64).is_err() {
            return Err(StoreError::Full { path: self.store.root().to_owned() });
        }
        self.file.write_all(bytes).map_err(StoreError::io("writing", &self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Puts it in its place, if it is what it should be, and keeps it there while the result is open;
    /// else its digest, and nothing of it is left.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(&mut self) -> Result<Result<File, Digest>, StoreError> {
        let actual = std::mem::take(&mut self.hasher).digest();
        if actual != self.digest {
            self.restart()?;
            return Ok(Err(actual));
        }
        let failed = StoreError::io("writing", &self.path);
        self.file.sync_all().map_err(&failed)?;
        let file = File::open(&self.path).map_err(&failed)?;
        file.lock_shared().map_err(&failed)?;
        self.store.keep_blob(&self.path, self.digest)?;
        Ok(Ok(file))
    }

    /// Leaves nothing of it.
    pub fn give_up(&self) {
        // What cannot be removed goes with the next `prune`.
        let _ = fs::remove_file(&self.path);
    }
}
