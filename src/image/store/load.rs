//! Takes images from archives.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageConfiguration, Os};

use super::super::archive::{ARCHITECTURE, Archive, ArchiveError, ImageSource};
use super::super::digest::{Digest, DigestError};
use super::super::erofs::WriteError;
use super::super::layer::LayerError;
use super::super::limits::{Budget, LimitError};
use super::super::reference::{Reference, ReferenceError};
use super::super::registry::Platform;
use super::super::verify::VerifyError;
use super::blobs::make_folder;
use super::keep::Keeper;
use super::references::References;
use super::staging::Staging;
use super::unpack::{Progress, Unpacker};
use super::{Image, LAYERS, Locked, MANIFEST, Store, StoreError, sync_directory};

/// An image that a load brought, once for each of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// its name, if the archive has one for it
    pub reference: Option<Reference>,
    /// its id
    pub id: Digest,
}

/// Why an archive was not loaded. Nothing of it is in the store then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// the archive
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// a name that the archive gives an image
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// the configuration of an image
    #[error("the image's configuration (sha256:{}) is not valid", id.hex())]
    Config {
        /// its digest
        id: Digest,
        /// where and why
        #[source]
        source: serde_json::Error,
    },
    /// a layer's digest in the configuration of an image
    #[error("the image's configuration names an invalid layer digest")]
    DiffId(#[source] DigestError),
    /// an image for another machine than the one that was asked for
    #[error("the image is for {found}, not for {wanted}")]
    Platform {
        /// what it is for
        found: String,
        /// what was asked for
        wanted: String,
    },
    /// the contents of a layer
    #[error("the layer {name} cannot be used")]
    Layer {
        /// its name in the archive
        name: String,
        /// why
        #[source]
        source: LayerError,
    },
    /// a layer that is not the one of the configuration
    #[error(
        "the layer {name} is not that of the image: its content is {actual}, expected {expected}"
    )]
    Content {
        /// its name in the archive
        name: String,
        /// digest in the configuration
        expected: Digest,
        /// digest of its decompressed content
        actual: Digest,
    },
    /// the file of the flattened image
    #[error(transparent)]
    Write(#[from] WriteError),
    /// who has a say in it
    #[error(transparent)]
    Refused(#[from] VerifyError),
    /// the store
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LoadError {
    /// Whether the file system of the store is full.
    pub(super) fn is_full(&self) -> bool {
        let (Self::Archive(ArchiveError::Limit(limit))
        | Self::Write(WriteError::Limit(limit))
        | Self::Layer {
            source: LayerError::Limit(limit) | LayerError::Write(WriteError::Limit(limit)),
            ..
        }) = self
        else {
            return matches!(self, Self::Store(StoreError::Full { .. }));
        };
        *limit == LimitError::Disk
    }
}

/// An image of an archive, checked as far as it can be without its layers.
#[derive(Debug)]
pub(in crate::image) struct Planned {
    pub id: Digest,
    pub names: Vec<Reference>,
    pub diff_ids: Vec<Digest>,
    pub source: ImageSource,
}

impl Planned {
    /// Refuses an image for another machine than the one that was asked for.
    pub fn check_platform(&self, wanted: &Platform) -> Result<(), LoadError> {
        let config = parse_config(self.id, &self.source.config)?;
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        if wanted.takes(&os, &architecture, config.variant().as_deref()) {
            return Ok(());
        }
        let (found, wanted) = (format!("{os}/{architecture}"), wanted.to_string());
        Err(LoadError::Platform { found, wanted })
    }
}

/// Where the layers of planned images are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Layers {
    /// in an archive, from which they are copied into the store
    Elsewhere,
    /// in the store
    Here,
}

/// Where a planned image is.
enum Ready {
    /// in the store already, and kept there by its lock
    Stored(#[allow(dead_code, reason = "it holds the lock")] File),
    /// in the staging folder
    Unpacked(PathBuf),
}

impl Store {
    /// Loads the images of an archive (an OCI layout or one of `docker save`, tar, plain or
    /// compressed) from a stream: all of them or none.
    ///
    /// # Errors
    ///
    /// If the archive or a part of it is damaged, refused, too large, or for other machines, or
    /// if the store cannot be written.
    pub fn load(
        &self,
        reader: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        self.load_stream(reader, progress).map_err(|error| self.name_if_full(error))
    }

    fn load_stream(
        &self,
        mut reader: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let staging = self.stage()?;
        let mut budget = Budget::new(self.limits.clone(), staging.path());
        let spool = temporary(staging.path())?;
        let mut heard = |bytes| progress(Progress::Archive { bytes });
        let archive = Archive::spool(&mut reader, spool, &mut budget, &mut heard)?;
        self.load_archive(&archive, &staging, budget, progress)
    }

    /// Loads the images of an archive at `path`: a file, or a folder with the files of one. Files
    /// that are not compressed are read in place.
    ///
    /// # Errors
    ///
    /// As [`Store::load`].
    pub fn load_path(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        self.load_from(path, progress).map_err(|error| self.name_if_full(error))
    }

    /// A load that ran out of disk says of which store.
    pub(in crate::image) fn name_if_full(&self, error: LoadError) -> LoadError {
        if error.is_full() { StoreError::Full { path: self.root.clone() }.into() } else { error }
    }

    fn load_from(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let failed = |what| StoreError::io(what, path);
        let file = File::open(path).map_err(failed("opening"))?;
        let staging = self.stage()?;
        let mut budget = Budget::new(self.limits.clone(), staging.path());
        if file.metadata().map_err(failed("reading"))?.is_dir() {
            let archive = Archive::open_directory(path)?;
            return self.load_archive(&archive, &staging, budget, progress);
        }
        let again = file.try_clone().map_err(failed("reading"))?;
        match Archive::open_file(file, &mut budget)? {
            Some(archive) => self.load_archive(&archive, &staging, budget, progress),
            None => {
                drop(staging);
                self.load_stream(again, progress)
            }
        }
    }

    /// A staging folder, after those of killed processes are gone.
    pub(in crate::image) fn stage(&self) -> Result<Staging, StoreError> {
        let held = self.lock_exclusive()?;
        let leftovers = Staging::leftovers(self, &held)?;
        let staging = Staging::create(self, &held)?;
        drop(held);
        drop(leftovers);
        Ok(staging)
    }

    fn load_archive(
        &self,
        archive: &Archive,
        staging: &Staging,
        mut budget: Budget,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let sources = archive.images(&mut budget)?;
        let planned = sources.into_iter().map(plan).collect::<Result<Vec<_>, _>>()?;
        for image in &planned {
            check_platform(image)?;
        }
        self.accept(&planned)?;
        self.take(archive, Layers::Elsewhere, &planned, staging, budget, progress)
    }

    /// Asks who has a say, before anything of a layer is looked at. What is accepted here by its
    /// manifest is held to it: the configuration was compared, layers will be.
    pub(in crate::image) fn accept(&self, planned: &[Planned]) -> Result<(), LoadError> {
        for image in planned {
            self.verifier.check(image.id, &image.names, image.source.manifest.as_deref())?;
        }
        Ok(())
    }

    /// Takes planned images: all of them or none.
    pub(in crate::image) fn take(
        &self,
        archive: &Archive,
        layers: Layers,
        planned: &[Planned],
        staging: &Staging,
        mut budget: Budget,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, LoadError> {
        let blobs = staging.path().join("blobs");
        make_folder(&blobs)?;
        let mut keeper = (layers == Layers::Elsewhere).then(|| Keeper::new(self, &blobs));
        let mut ready: HashMap<Digest, Ready> = HashMap::new();
        for image in planned {
            if ready.contains_key(&image.id) {
                continue;
            }
            let place = match self.stored(image)? {
                Some(stored) => Ready::Stored(stored.guard),
                None => {
                    let folder = staging.path().join(image.id.hex());
                    make_folder(&folder)?;
                    budget.next_image();
                    let (keeper, budget) = (keeper.as_mut(), &mut budget);
                    Unpacker { archive, keeper, budget, progress }.unpack(
                        &image.source,
                        image.id,
                        &image.diff_ids,
                        &folder,
                    )?;
                    Ready::Unpacked(folder)
                }
            };
            ready.insert(image.id, place);
        }
        let held = self.lock_exclusive()?;
        if let Some(keeper) = &keeper {
            keeper.install(&held)?;
        }
        self.install(&ready, planned, &held)?;
        Ok(planned.iter().flat_map(loaded).collect())
    }

    /// The image as it is in the store, if it is there with its layers and with this manifest.
    pub(in crate::image) fn stored(&self, image: &Planned) -> Result<Option<Image>, StoreError> {
        let held = self.lock_shared()?;
        let Some(stored) = self.image(image.id, &References::default(), &held)? else {
            return Ok(None);
        };
        drop(held);
        let manifest = image.source.manifest.as_ref();
        if manifest.is_some() && stored.manifest()?.as_ref() != manifest {
            return Ok(None);
        }
        let Some(layers) = stored.layers()? else {
            return Ok(None);
        };
        Ok(self.hold_layers(&layers)?.is_some().then_some(stored))
    }

    /// Moves what was unpacked to its place and gives it its names.
    fn install(
        &self,
        ready: &HashMap<Digest, Ready>,
        planned: &[Planned],
        _held: &Locked,
    ) -> Result<(), StoreError> {
        let path = self.references();
        let mut references = References::read(&path)?;
        for image in planned {
            for name in &image.names {
                references.set(name.clone(), image.id);
            }
        }
        let references = references.prepare(&path)?;
        for (id, place) in ready {
            let target = self.folder(*id);
            match place {
                // Another load was quicker with the same image, or its layers were not there, or came
                // by another manifest.
                Ready::Unpacked(folder) if target.exists() => adopt(folder, &target)?,
                Ready::Unpacked(folder) => {
                    fs::rename(folder, &target).map_err(StoreError::io("creating", &target))?;
                }
                Ready::Stored(_) => {}
            }
        }
        sync_directory(&self.images())?;
        references.commit()
    }
}

/// Puts the list of layers and the manifest of an image in the place of those of another load.
fn adopt(from: &Path, to: &Path) -> Result<(), StoreError> {
    for name in [MANIFEST, LAYERS] {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            fs::rename(&from, &to).map_err(StoreError::io("creating", &to))?;
        } else if to.exists() {
            fs::remove_file(&to).map_err(StoreError::io("removing", &to))?;
        }
    }
    sync_directory(to)
}

fn loaded(image: &Planned) -> Vec<Loaded> {
    let id = image.id;
    if image.names.is_empty() {
        return vec![Loaded { reference: None, id }];
    }
    let names = image.names.iter().cloned();
    names.map(|name| Loaded { reference: Some(name), id }).collect()
}

/// A file without a name in `folder`.
pub(super) fn temporary(folder: &Path) -> Result<File, StoreError> {
    tempfile::tempfile_in(folder).map_err(StoreError::io("creating a file in", folder))
}

/// A file with a name in `folder`, that goes with the result.
pub(super) fn temporary_named(folder: &Path) -> Result<tempfile::NamedTempFile, StoreError> {
    tempfile::NamedTempFile::new_in(folder).map_err(StoreError::io("creating a file in", folder))
}

/// Refuses what this machine cannot run.
fn check_platform(image: &Planned) -> Result<(), LoadError> {
    let config = parse_config(image.id, &image.source.config)?;
    let architecture = config.architecture().to_string();
    if architecture == ARCHITECTURE {
        return Ok(());
    }
    Err(ArchiveError::Platform(format!("{}/{architecture}", config.os())).into())
}

fn parse_config(id: Digest, bytes: &[u8]) -> Result<ImageConfiguration, LoadError> {
    serde_json::from_slice(bytes).map_err(|source| LoadError::Config { id, source })
}

/// Checks names and configuration of an image.
pub(in crate::image) fn plan(source: ImageSource) -> Result<Planned, LoadError> {
    let id = Digest::of(&source.config);
    let config = parse_config(id, &source.config)?;
    if *config.os() != Os::Linux {
        let platform = format!("{}/{}", config.os(), config.architecture());
        return Err(ArchiveError::Platform(platform).into());
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != source.layers.len() {
        return Err(ArchiveError::LayerCount {
            name: "the manifest".to_owned(),
            layers: source.layers.len(),
            diff_ids: diff_ids.len(),
        }
        .into());
    }
    let diff_ids = diff_ids.iter().map(|digest| digest.parse().map_err(LoadError::DiffId));
    let diff_ids = diff_ids.collect::<Result<_, _>>()?;
    let (mut names, mut known) = (Vec::new(), BTreeSet::new());
    for name in &source.names {
        let name: Reference = name.parse()?;
        if known.insert(name.clone()) {
            names.push(name);
        }
    }
    Ok(Planned { id, names, diff_ids, source })
}
