//! The image store: flattened images and their names.
//!
//! ```text
//! lock                       flock: exclusive while names or images change, shared to look one up
//! references.json            names and the ids they mean; replaced as a whole
//! images/HEX/rootfs.erofs    the image's layers as one file system
//!            config.json     its configuration, byte for byte: HEX is the SHA-256 of it
//!            manifest.json   its manifest, byte for byte, where the archive had one
//!            layers.json     which layers these were
//! blobs/sha256/HEX           layers as they came, each once
//! downloads/HEX.partial      layers on their way, locked by who fetches them
//! staging/…                  what is half loaded or half removed, locked by who does it
//! damaged/HEX                what was not what its name says
//! ```
//!
//! An image's folder and a layer are locked (flock, shared) by everyone who uses them; only an
//! exclusive lock lets them go. Running needs no layer: they are there to be saved, pushed, and
//! not to be fetched again.

mod blobs;
mod download;
mod error;
mod keep;
mod load;
mod parts;
mod prune;
mod references;
mod remove;
mod staging;
mod unpack;

pub use blobs::StoredLayer;
pub use download::Download;
pub use error::StoreError;
pub use load::{LoadError, Loaded};
pub use prune::Pruned;
pub use remove::Removed;
pub use unpack::Progress;

pub(super) use blobs::media_type;
pub(super) use download::Wanted;
pub(super) use load::{Layers, Planned, plan};
pub(super) use parts::{Part, Parts, make as make_manifest};
pub(super) use staging::Staging;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use super::archive::ARCHITECTURE;
use super::digest::Digest;
use super::limits::Limits;
use super::reference::Reference;
use super::verify::Verifier;
use references::References;

const ROOTFS: &str = "rootfs.erofs";
const CONFIG: &str = "config.json";
const MANIFEST: &str = "manifest.json";
const LAYERS: &str = "layers.json";

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    limits: Limits,
    verifier: Verifier,
    users: Users,
}

/// Containers that were made of images, by the images' ids: these stay.
pub type Users = HashMap<Digest, String>;

/// The lock of the whole store, held.
#[derive(Debug)]
pub(in crate::image) struct Locked(
    #[allow(dead_code, reason = "its descriptor holds the lock")] File,
);

/// An image of the store. It cannot be removed while this exists.
#[derive(Debug)]
pub struct Image {
    /// SHA-256 of the configuration
    pub id: Digest,
    /// its names
    pub references: Vec<Reference>,
    /// its configuration
    pub config: ImageConfiguration,
    /// the same, byte for byte
    config_bytes: Vec<u8>,
    /// the file with its root file system (EROFS, read-only)
    pub rootfs: PathBuf,
    /// how much of the disk that file takes, in bytes
    pub size: u64,
    /// when it was built, as its configuration says
    pub created: Option<jiff::Timestamp>,
    /// Holds the shared lock of its folder.
    guard: File,
}

impl Image {
    /// The lock that keeps the image: it lasts until the last copy of this descriptor is closed,
    /// also in processes that inherit one.
    #[must_use]
    pub fn guard(&self) -> &File {
        &self.guard
    }

    /// Its manifest, byte for byte; none where its archive had none.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn manifest(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.manifest_path();
        match fs::read(&path) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("reading", &path)(error)),
        }
    }

    /// Refuses an image for other machines than this one: it can be kept and given on, not run.
    ///
    /// # Errors
    ///
    /// [`StoreError::Platform`].
    pub fn check_platform(&self) -> Result<(), StoreError> {
        let architecture = self.config.architecture().to_string();
        if architecture == ARCHITECTURE {
            return Ok(());
        }
        Err(StoreError::Platform { id: self.id, found: architecture })
    }

    /// Its configuration, byte for byte: more than its specification has may be in it.
    #[must_use]
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// Where its manifest is, if it has one.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.rootfs.with_file_name(MANIFEST)
    }
}

impl Store {
    /// The store in the folder `root`, which is made if need be, for its owner alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`] if the folders cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self {
            root: root.to_owned(),
            limits: Limits::default(),
            verifier: Verifier::default(),
            users: Users::default(),
        };
        for folder in [store.images(), store.staging(), store.blobs(), store.downloads()] {
            blobs::make_folder(&folder)?;
        }
        Ok(store)
    }

    /// The same store with other bounds for what is loaded.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same store, of which these images are not removed, whether somebody holds them or not.
    #[must_use]
    pub fn with_users(self, users: Users) -> Self {
        Self { users, ..self }
    }

    /// The same store, that takes only what these programs accept.
    #[must_use]
    pub fn with_verifier(self, verifier: Verifier) -> Self {
        Self { verifier, ..self }
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(in crate::image) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The bounds of what is taken.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn references(&self) -> PathBuf {
        self.root.join("references.json")
    }

    fn folder(&self, id: Digest) -> PathBuf {
        self.images().join(id.hex())
    }

    fn lock(&self, lock: fn(&File) -> io::Result<()>) -> Result<Locked, StoreError> {
        let path = self.root.join("lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(StoreError::io("opening", &path))?;
        lock(&file).map_err(StoreError::io("locking", &path))?;
        Ok(Locked(file))
    }

    fn lock_exclusive(&self) -> Result<Locked, StoreError> {
        self.lock(File::lock)
    }

    fn lock_shared(&self) -> Result<Locked, StoreError> {
        self.lock(File::lock_shared)
    }

    /// The image that a user's text means: a name in any form that docker takes, `NAME@sha256:…`,
    /// an id or the start of one, or the digest of a manifest.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`] or [`StoreError::Reference`] for the
    /// text, others for the store.
    pub fn get(&self, text: &str) -> Result<Image, StoreError> {
        let held = self.lock_shared()?;
        let references = References::read(&self.references())?;
        let (id, _) = self.find(text, &references, &held)?;
        self.image(id, &references, &held)?.ok_or_else(|| StoreError::NotFound(text.to_owned()))
    }

    /// All images, the newest first.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let held = self.lock_shared()?;
        let references = References::read(&self.references())?;
        let mut images = Vec::new();
        for id in self.ids()? {
            images.extend(self.image(id, &references, &held)?);
        }
        images.sort_by(|a, b| b.created.cmp(&a.created).then(a.id.cmp(&b.id)));
        Ok(images)
    }

    fn ids(&self) -> Result<Vec<Digest>, StoreError> {
        blobs::digests_in(&self.images())
    }

    /// The id that `text` means, and the name if it is by a name.
    fn find(
        &self,
        text: &str,
        references: &References,
        _held: &Locked,
    ) -> Result<(Digest, Option<Reference>), StoreError> {
        let not_found = || StoreError::NotFound(text.to_owned());
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(digest) = Digest::from_hex(digits) {
            let id = self.by_digest(digest)?.ok_or_else(not_found)?;
            return Ok((id, None));
        }
        let reference: Result<Reference, _> = text.parse();
        if let Ok(reference) = &reference {
            if let Some(id) = references.get(reference) {
                return Ok((id, Some(reference.clone())));
            }
            if let Some(digest) = reference.digest() {
                let id = self.by_digest(digest)?.ok_or_else(not_found)?;
                let mut names = references.of(id).into_iter();
                let named = names.any(|name| name.name() == reference.name());
                return if named { Ok((id, None)) } else { Err(not_found()) };
            }
        }
        let hexadecimal = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if !digits.is_empty() && digits.bytes().all(hexadecimal) {
            let mut found = self.ids()?.into_iter().filter(|id| id.hex().starts_with(digits));
            if let Some(id) = found.next() {
                return match found.next() {
                    None => Ok((id, None)),
                    Some(_) => Err(StoreError::Ambiguous(text.to_owned())),
                };
            }
            return Err(not_found());
        }
        reference?;
        Err(not_found())
    }

    /// The image whose configuration or manifest has the digest `digest`.
    fn by_digest(&self, digest: Digest) -> Result<Option<Digest>, StoreError> {
        let ids = self.ids()?;
        if ids.contains(&digest) {
            return Ok(Some(digest));
        }
        let is_manifest = |id: &Digest| {
            let manifest = fs::read(self.folder(*id).join(MANIFEST));
            manifest.is_ok_and(|manifest| Digest::of(&manifest) == digest)
        };
        Ok(ids.into_iter().find(is_manifest))
    }

    /// The image `id`, locked; none if it is not there.
    fn image(
        &self,
        id: Digest,
        references: &References,
        _held: &Locked,
    ) -> Result<Option<Image>, StoreError> {
        let folder = self.folder(id);
        let guard = match File::open(&folder) {
            Ok(guard) => guard,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("opening", &folder)(error)),
        };
        guard.lock_shared().map_err(StoreError::io("locking", &folder))?;
        let path = folder.join(CONFIG);
        let config_bytes = fs::read(&path).map_err(StoreError::io("reading", &path))?;
        if Digest::of(&config_bytes) != id {
            let source = "it has not the digest that its folder says".into();
            return Err(StoreError::Damaged { path, source });
        }
        let config: ImageConfiguration = serde_json::from_slice(&config_bytes)
            .map_err(|source| StoreError::Damaged { path, source: source.into() })?;
        let rootfs = folder.join(ROOTFS);
        let metadata = fs::metadata(&rootfs).map_err(StoreError::io("reading", &rootfs))?;
        let created = config.created().as_ref().and_then(|created| created.parse().ok());
        let references = references.of(id);
        let size = metadata.blocks() * 512;
        Ok(Some(Image { id, references, config, config_bytes, rootfs, size, created, guard }))
    }
}

/// Makes what happened to the names in a folder last.
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("syncing", path))
}

#[cfg(test)]
mod tests;
