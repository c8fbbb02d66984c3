//! Makes an image of the tar file of a root file system.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::archive::{ARCHITECTURE, Archive, ArchiveError, ImageSource, LayerSource};
use super::changes::Change;
use super::compression::{Compression, Decoder, drain};
use super::digest::{Digest, HashReader};
use super::limits::{Budget, LimitError, Room};
use super::reference::Reference;
use super::store::{
    Layers, LoadError, Progress, Staging, Store, StoredLayer, make_manifest, media_type, plan,
};

/// What is said of an imported image.
#[derive(Debug, Default)]
pub struct Description {
    /// its name
    pub name: Option<Reference>,
    /// changes of its configuration, as a Dockerfile's
    pub changes: Vec<Change>,
    /// what its history says
    pub message: String,
    /// its architecture; this machine's by default
    pub architecture: Option<String>,
    /// when it was made
    pub created: Timestamp,
}

/// The name of the layer beside others in its staging folder.
pub(super) const LAYER: &str = "layer";

impl Store {
    /// Makes an image of one layer, which is the archive that `reader` gives, plain or compressed.
    ///
    /// # Errors
    ///
    /// If that is no archive, or one that a layer must not be, or the store cannot be written.
    pub fn import(
        &self,
        reader: impl Read,
        description: &Description,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Digest, LoadError> {
        self.import_into(reader, description, progress).map_err(|error| self.name_if_full(error))
    }

    fn import_into(
        &self,
        reader: impl Read,
        description: &Description,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Digest, LoadError> {
        let staging = self.stage()?;
        let layer = self.spool(reader, &staging, progress)?;
        let config = config(&layer, description);
        let manifest = make_manifest(&config, std::slice::from_ref(&layer));
        let planned = plan(ImageSource {
            names: description.name.iter().map(ToString::to_string).collect(),
            config,
            manifest: Some(manifest),
            layers: vec![LayerSource {
                name: LAYER.to_owned(),
                digest: Some(layer.digest),
                size: Some(layer.size),
            }],
        })?;
        let id = planned.id;
        let planned = [planned];
        self.accept(&planned)?;
        let archive = Archive::open_directory(staging.path())?;
        let budget = Budget::new(self.limits().clone(), staging.path());
        self.take(&archive, Layers::Elsewhere, &planned, &staging, budget, progress)?;
        Ok(id)
    }

    /// Keeps what a reader gives as a layer, and finds out what it is.
    pub(super) fn spool(
        &self,
        mut reader: impl Read,
        staging: &Staging,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<StoredLayer, LoadError> {
        let path = staging.path().join(LAYER);
        let mut room = Room::new(self.limits(), staging.path());
        let mut budget = Budget::new(self.limits().clone(), staging.path());
        let mut file = File::create_new(&path).map_err(ArchiveError::spool)?;
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::Read(error).into()),
            };
            room.stored(read as u64).map_err(ArchiveError::from)?;
            budget.unpacked(read as u64).map_err(ArchiveError::from)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            file.write_all(bytes).map_err(ArchiveError::spool)?;
            size += read as u64;
            progress(Progress::Archive { bytes: size });
        }
        if size == 0 {
            return Err(ArchiveError::NotAnArchive.into());
        }
        Ok(examine(&path, size, &mut budget)?)
    }
}

/// Digests of a layer's file and of what is in it.
fn examine(path: &Path, size: u64, budget: &mut Budget) -> Result<StoredLayer, ArchiveError> {
    let open = || File::open(path).map_err(ArchiveError::Read);
    let mut file = HashReader::new(open()?);
    drain(&mut file).map_err(ArchiveError::Read)?;
    let (compression, sniffed) = Compression::sniff(open()?).map_err(ArchiveError::Read)?;
    let compression = compression?;
    let decoder = Decoder::new(compression, sniffed).map_err(ArchiveError::Read)?;
    let mut content = HashReader::new(Bounded { inner: decoder, budget, over: None });
    let drained = drain(&mut content);
    let unpacked_size = content.count();
    let (inner, diff_id) = content.finish();
    if let Some(over) = inner.over {
        return Err(over.into());
    }
    drained.map_err(ArchiveError::Read)?;
    let nothing = || ArchiveError::Read(io::Error::other("nothing was hashed"));
    Ok(StoredLayer {
        media_type: media_type(compression).to_owned(),
        digest: file.digest().ok_or_else(nothing)?,
        size,
        diff_id: diff_id.ok_or_else(nothing)?,
        unpacked_size,
    })
}

/// Stops where more comes out than a load may use.
struct Bounded<'a, R> {
    inner: R,
    budget: &'a mut Budget,
    over: Option<LimitError>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Err(over) = self.budget.unpacked(read as u64) {
            self.over = Some(over);
            return Err(io::Error::other("it is too large"));
        }
        Ok(read)
    }
}

fn config(layer: &StoredLayer, description: &Description) -> Vec<u8> {
    let created = description.created.to_string();
    let mut config = json!({});
    for change in &description.changes {
        change.apply(&mut config);
    }
    let mut history = json!({"created": created});
    if !description.message.is_empty() {
        history["comment"] = Value::from(description.message.as_str());
    }
    let architecture = description.architecture.as_deref().unwrap_or(ARCHITECTURE);
    let document = json!({
        "architecture": architecture, "os": "linux", "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}, "history": [history],
    });
    document.to_string().into_bytes()
}
