//! Layers as they came, which images share: what `save` and `push` give back byte for byte.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::compression::{Compression, drain};
use super::super::digest::{Digest, HashReader};
use super::staging::Staging;
use super::{Image, Locked, Store, StoreError, sync_directory};

/// Largest list of an image's layers that is read, in bytes.
const LIST_BYTES: u64 = 4 << 20;

/// A layer of an image as it came, and what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoredLayer {
    /// media type, by its compression
    pub media_type: String,
    /// SHA-256 of its file
    pub digest: Digest,
    /// bytes of its file
    pub size: u64,
    /// SHA-256 of its content
    pub diff_id: Digest,
    /// bytes of its content
    pub unpacked_size: u64,
}

/// The media type of a layer of this compression.
pub(in crate::image) fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

impl Image {
    /// Its layers, the lowest first; none where an ampoule loaded it that kept none.
    ///
    /// # Errors
    ///
    /// If their list cannot be read, or is not the one of this image.
    pub fn layers(&self) -> Result<Option<Vec<StoredLayer>>, StoreError> {
        let path = self.rootfs.with_file_name(super::LAYERS);
        let Some(layers) = read_list(&path)? else {
            return Ok(None);
        };
        let diff_ids = self.config.rootfs().diff_ids();
        let same = layers.len() == diff_ids.len()
            && layers.iter().zip(diff_ids).all(|(layer, id)| layer.diff_id.to_string() == *id);
        if same {
            Ok(Some(layers))
        } else {
            Err(StoreError::Damaged { path, source: "it is another image's".into() })
        }
    }
}

fn read_list(path: &Path) -> Result<Option<Vec<StoredLayer>>, StoreError> {
    let failed = StoreError::io("reading", path);
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LIST_BYTES).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Damaged { path: path.to_owned(), source: source.into() })
}

impl Store {
    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where a layer is, if it is there.
    pub(in crate::image) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Opens a layer of this size; while the file is open nobody takes it away.
    pub(in crate::image) fn hold_blob(
        &self,
        digest: Digest,
        size: u64,
    ) -> Result<Option<File>, StoreError> {
        let held = self.lock_shared()?;
        self.hold_blob_locked(digest, size, &held)
    }

    fn hold_blob_locked(
        &self,
        digest: Digest,
        size: u64,
        _held: &Locked,
    ) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(digest);
        let failed = StoreError::io("opening", &path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        file.lock_shared().map_err(&failed)?;
        Ok((file.metadata().map_err(&failed)?.len() == size).then_some(file))
    }

    /// Opens the layers of an image; none if one of them is not there.
    pub(in crate::image) fn hold_layers(
        &self,
        layers: &[StoredLayer],
    ) -> Result<Option<Vec<File>>, StoreError> {
        let held = self.lock_shared()?;
        let layers =
            layers.iter().map(|layer| self.hold_blob_locked(layer.digest, layer.size, &held));
        layers.collect()
    }

    /// Compares a layer with its digest. What is another than it should be is set aside, where nobody
    /// takes it for the layer any more.
    pub(in crate::image) fn check_blob(
        &self,
        digest: Digest,
        mut file: &File,
    ) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        let failed = StoreError::io("reading", &path);
        let mut reader = HashReader::new(file);
        drain(&mut reader).map_err(&failed)?;
        let actual = reader.digest();
        file.seek(SeekFrom::Start(0)).map_err(&failed)?;
        match actual {
            Some(actual) if actual != digest => {
                let aside = self.set_aside(digest)?;
                Err(StoreError::Blob { digest, actual, aside })
            }
            _ => Ok(()),
        }
    }

    /// Takes a layer that is damaged out of the way; where it is now.
    pub(in crate::image) fn set_aside(&self, digest: Digest) -> Result<PathBuf, StoreError> {
        let held = self.lock_exclusive()?;
        let (from, to) = (self.blob_path(digest), self.damaged().join(digest.hex()));
        let failed = StoreError::io("setting aside", &from);
        make_folder(&self.damaged())?;
        match fs::rename(&from, &to) {
            Ok(()) => {}
            // Another was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        drop(held);
        sync_directory(&self.blobs())?;
        Ok(to)
    }

    pub(super) fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Puts a whole layer, whose digest was compared, in its place.
    pub(in crate::image) fn keep_blob(
        &self,
        from: &Path,
        digest: Digest,
    ) -> Result<(), StoreError> {
        let held = self.lock_exclusive()?;
        self.keep_blob_locked(from, digest, &held)?;
        drop(held);
        sync_directory(&self.blobs())
    }

    /// The same; the caller makes it last.
    pub(super) fn keep_blob_locked(
        &self,
        from: &Path,
        digest: Digest,
        _held: &Locked,
    ) -> Result<(), StoreError> {
        let to = self.blob_path(digest);
        fs::rename(from, &to).map_err(StoreError::io("creating", &to))
    }

    /// Which layers the images have that are in the store.
    pub(super) fn needed(&self, _held: &Locked) -> Result<BTreeSet<Digest>, StoreError> {
        let mut needed = BTreeSet::new();
        for id in self.ids()? {
            let layers = read_list(&self.folder(id).join(super::LAYERS))?;
            needed.extend(layers.into_iter().flatten().map(|layer| layer.digest));
        }
        Ok(needed)
    }

    /// The layers of the image `id`, as far as they can be told.
    pub(super) fn layers_of(&self, id: Digest) -> BTreeSet<Digest> {
        let layers = read_list(&self.folder(id).join(super::LAYERS));
        let layers = layers.ok().flatten().unwrap_or_default();
        layers.into_iter().map(|layer| layer.digest).collect()
    }

    /// Moves those of the layers that no image needs and nobody holds to `trash`.
    pub(super) fn discard(
        &self,
        layers: impl IntoIterator<Item = Digest>,
        trash: &Staging,
        held: &Locked,
    ) -> Result<u64, StoreError> {
        // In doubt about one image's layers all are kept.
        let needed = self.needed(held)?;
        let mut bytes = 0;
        for digest in layers.into_iter().filter(|digest| !needed.contains(digest)) {
            let path = self.blob_path(digest);
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_err() {
                continue;
            }
            bytes += file.metadata().map_or(0, |metadata| metadata.len());
            let moved = fs::rename(&path, trash.path().join(digest.hex()));
            moved.map_err(StoreError::io("removing", &path))?;
        }
        Ok(bytes)
    }

    /// The digests of all layers that are there.
    pub(super) fn all_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        digests_in(&self.blobs())
    }
}

/// The digests that files in a folder are named after.
pub(super) fn digests_in(path: &Path) -> Result<Vec<Digest>, StoreError> {
    let failed = StoreError::io("reading", path);
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(&failed)? {
        let name = entry.map_err(&failed)?.file_name();
        found.extend(name.to_str().and_then(Digest::from_hex));
    }
    Ok(found)
}

/// Makes a folder for its owner alone, if need be.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(StoreError::io("creating", path))
}
