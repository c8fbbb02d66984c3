//! Makes the files of one image from its layers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::archive::{Archive, ArchiveError, Blob, ImageSource, LayerSource};
use super::super::compression::{Compression, Decoder, drain};
use super::super::digest::{Digest, HashReader};
use super::super::erofs::DataWriter;
use super::super::layer::{Layer, LayerError};
use super::super::limits::Budget;
use super::super::tar_stream::{TarError, TarStream};
use super::super::tree::Tree;
use super::blobs::{StoredLayer, media_type};
use super::keep::{Keeper, Tee};
use super::load::temporary;
use super::{CONFIG, LAYERS, LoadError, MANIFEST, ROOTFS, StoreError, sync_directory};

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The archive is being read from a stream.
    Archive {
        /// bytes so far
        bytes: u64,
    },
    /// A layer is being put on those below.
    Layer {
        /// its number, from 1
        number: usize,
        /// how many layers the image has
        layers: usize,
        /// bytes of its file that were read
        bytes: u64,
        /// size of its file in bytes
        size: u64,
    },
}

/// Unpacks images of one archive.
pub struct Unpacker<'a> {
    /// the archive
    pub archive: &'a Archive,
    /// who keeps the layers; none where the archive is the store itself
    pub keeper: Option<&'a mut Keeper>,
    /// what the load may use
    pub budget: &'a mut Budget,
    /// who hears how far it is
    pub progress: &'a mut dyn FnMut(Progress),
}

impl Unpacker<'_> {
    /// Puts the layers of `source` into one file system and writes it and the image's documents
    /// into `folder`.
    pub fn unpack(
        &mut self,
        source: &ImageSource,
        id: Digest,
        diff_ids: &[Digest],
        folder: &Path,
    ) -> Result<(), LoadError> {
        let path = folder.join(ROOTFS);
        let image = create(&path)?;
        let mut data = DataWriter::new(image, temporary(folder)?)?;
        let mut tree = Tree::default();
        let layers = source.layers.len();
        let mut stored = Vec::new();
        for (at, (layer, diff_id)) in source.layers.iter().zip(diff_ids).enumerate() {
            stored.push(self.layer(layer, *diff_id, (at + 1, layers), &mut tree, &mut data)?);
        }
        data.finish(&tree, id.uuid(), self.budget)?;
        write(&folder.join(CONFIG), &source.config)?;
        let path = folder.join(LAYERS);
        let list = serde_json::to_vec(&stored).map_err(io::Error::from);
        write(&path, &list.map_err(StoreError::io("writing", &path))?)?;
        if let Some(manifest) = &source.manifest {
            write(&folder.join(MANIFEST), manifest)?;
        }
        Ok(sync_directory(folder)?)
    }

    /// Puts one layer on the others and checks that it was the right one.
    fn layer(
        &mut self,
        layer: &LayerSource,
        diff_id: Digest,
        (number, layers): (usize, usize),
        tree: &mut Tree,
        data: &mut DataWriter,
    ) -> Result<StoredLayer, LoadError> {
        let blob = self.open(layer)?;
        let size = blob.length();
        // A file may be the layer of many images, and hold what decompresses to nothing.
        self.budget.unpacked(size).map_err(ArchiveError::from)?;
        let mut copy = match &mut self.keeper {
            Some(keeper) => keeper.copy(layer.digest, size)?,
            None => None,
        };
        let mut bytes = 0;
        let progress = &mut *self.progress;
        let metered = Metered {
            inner: Tee { inner: blob, copy: copy.as_mut() },
            heard: |read| {
                bytes += read;
                progress(Progress::Layer { number, layers, bytes, size });
            },
        };
        let read = read_layer(metered, tree, data, self.budget);
        if let Some(failure) = copy.as_mut().and_then(|copy| copy.failure()) {
            return Err(failure);
        }
        match read {
            Ok(found) => {
                check(layer, diff_id, &found)?;
                if let Some(copy) = copy {
                    copy.finish(found.file)?;
                }
                Ok(StoredLayer {
                    media_type: media_type(found.compression).to_owned(),
                    digest: found.file,
                    size,
                    diff_id,
                    unpacked_size: found.unpacked_size,
                })
            }
            Err(error) => {
                drop(copy);
                // Damage is best named as what it is, not by what it made of the entries.
                self.check_file(layer)?;
                Err(LoadError::Layer { name: layer.name.clone(), source: error })
            }
        }
    }

    fn open(&self, layer: &LayerSource) -> Result<Blob, ArchiveError> {
        let name = &layer.name;
        let blob = self.archive.open(name)?.ok_or_else(|| self.archive.missing(name))?;
        match layer.size {
            Some(expected) if expected != blob.length() => {
                Err(ArchiveError::Size { name: name.clone(), expected, actual: blob.length() })
            }
            _ => Ok(blob),
        }
    }

    /// Compares the file of a layer with its digest, where the archive states one.
    fn check_file(&self, layer: &LayerSource) -> Result<(), ArchiveError> {
        let Some(expected) = layer.digest else {
            return Ok(());
        };
        let mut reader = HashReader::new(self.open(layer)?);
        let failed = |source| ArchiveError::File { name: layer.name.clone(), source };
        drain(&mut reader).map_err(failed)?;
        match reader.digest() {
            Some(actual) if actual != expected => {
                Err(ArchiveError::Digest { name: layer.name.clone(), expected, actual })
            }
            _ => Ok(()),
        }
    }
}

/// What a layer turned out to be.
struct Found {
    compression: Compression,
    /// digest of its file
    file: Digest,
    /// digest of what was in it
    content: Digest,
    unpacked_size: u64,
}

fn check(layer: &LayerSource, diff_id: Digest, found: &Found) -> Result<(), LoadError> {
    let name = || layer.name.clone();
    match layer.digest {
        Some(expected) if expected != found.file => {
            Err(ArchiveError::Digest { name: name(), expected, actual: found.file }.into())
        }
        _ if found.content != diff_id => {
            let (expected, actual) = (diff_id, found.content);
            Err(LoadError::Content { name: name(), expected, actual })
        }
        _ => Ok(()),
    }
}

fn read_layer(
    file: impl Read,
    tree: &mut Tree,
    data: &mut DataWriter,
    budget: &mut Budget,
) -> Result<Found, LayerError> {
    let read = |source| TarError::Read { position: 0, source };
    let (compression, sniffed) = Compression::sniff(file).map_err(read)?;
    let compression = compression?;
    // Without compression file and content are the same: they are hashed once.
    let plain = compression == Compression::None;
    let mut file = if plain { HashReader::counting(sniffed) } else { HashReader::new(sniffed) };
    let decoder = Decoder::new(compression, &mut file).map_err(read)?;
    let mut stream = TarStream::new(HashReader::new(decoder));
    Layer::new(tree, data, budget).apply(&mut stream)?;
    let position = stream.position();
    let read = |source| TarError::Read { position, source };
    let mut content = stream.into_inner();
    // What follows the end of the archive belongs to the digests as well.
    let mut rest = [0; 8192];
    loop {
        match content.read(&mut rest) {
            Ok(0) => break,
            Ok(length) => budget.unpacked(length as u64)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read(error).into()),
        }
    }
    let unpacked_size = content.count();
    let content = content.digest();
    drain(&mut file).map_err(read)?;
    let file = if plain { content } else { file.digest() };
    match (file, content) {
        (Some(file), Some(content)) => Ok(Found { compression, file, content, unpacked_size }),
        _ => Err(read(io::Error::other("nothing was hashed")).into()),
    }
}

/// Tells how much is read.
struct Metered<R, F> {
    inner: R,
    heard: F,
}

impl<R: Read, F: FnMut(u64)> Read for Metered<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        (self.heard)(read as u64);
        Ok(read)
    }
}

fn create(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(StoreError::io("creating", path))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = StoreError::io("writing", path);
    let mut file = create(path)?;
    file.write_all(bytes).map_err(&failed)?;
    file.sync_all().map_err(&failed)
}
