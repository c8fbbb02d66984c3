//! Writes images as one archive: an OCI layout, with docker's `manifest.json` beside it, as `docker
//! save` writes since version 25. The same images give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::digest::Digest;
use super::reference::Reference;
use super::store::{Image, Part, Parts, Store, StoreError};

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// the store
    #[error(transparent)]
    Store(#[from] StoreError),
    /// who takes the archive
    #[error("writing the archive failed")]
    Write(#[source] io::Error),
}

/// An image to be saved, with the names that it is to have.
struct Chosen {
    image: Image,
    names: Vec<Reference>,
}

impl Store {
    /// Writes the images that these texts mean to `out`: a name with its tag, a name alone with all of
    /// its tags, an id without a name.
    ///
    /// # Errors
    ///
    /// As [`Store::get`], if layers of one are not there or damaged, and if `out` takes no more.
    pub fn save(&self, texts: &[String], out: impl Write) -> Result<(), SaveError> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for text in texts {
            for one in self.choose(text)? {
                match chosen.iter_mut().find(|known| known.image.id == one.image.id) {
                    Some(known) => known.names.extend(one.names),
                    None => chosen.push(one),
                }
            }
        }
        // All of them before the first byte: a part of an archive is of no use.
        let mut images = Vec::new();
        for mut one in chosen {
            one.names.sort();
            one.names.dedup();
            let parts = self.parts(&one.image)?;
            images.push((one, parts));
        }
        write(&images, out).map_err(SaveError::Write)
    }

    fn choose(&self, text: &str) -> Result<Vec<Chosen>, StoreError> {
        if let Ok(name) = text.parse::<Reference>()
            && Reference::is_bare(text)
        {
            let tags = |image: Image| {
                let same =
                    |other: &&Reference| other.name() == name.name() && other.tag().is_some();
                let names: Vec<_> = image.references.iter().filter(same).cloned().collect();
                (!names.is_empty()).then_some(Chosen { image, names })
            };
            let all: Vec<_> = self.list()?.into_iter().filter_map(tags).collect();
            if !all.is_empty() {
                return Ok(all);
            }
        }
        let image = self.get(text)?;
        let name = text.parse().ok().filter(|name| image.references.contains(name));
        let names = name.into_iter().filter(|name: &Reference| name.tag().is_some()).collect();
        Ok(vec![Chosen { image, names }])
    }
}

/// A file of the archive.
enum Content<'a> {
    Bytes(&'a [u8]),
    Layer(&'a Part),
}

fn write(images: &[(Chosen, Parts)], out: impl Write) -> io::Result<()> {
    let mut blobs: BTreeMap<Digest, Content<'_>> = BTreeMap::new();
    let (mut manifests, mut items) = (Vec::new(), Vec::new());
    for (chosen, parts) in images {
        blobs.insert(chosen.image.id, Content::Bytes(&parts.config));
        blobs.insert(Digest::of(&parts.manifest), Content::Bytes(&parts.manifest));
        for layer in &parts.layers {
            blobs.insert(layer.digest, Content::Layer(layer));
        }
        manifests.extend(descriptors(&chosen.names, parts));
        items.push(item(chosen, parts));
    }
    let mut archive = Builder::new(out);
    for folder in ["blobs/", "blobs/sha256/"] {
        archive.append(&header(folder, EntryType::Directory, 0)?, io::empty())?;
    }
    for (digest, content) in &blobs {
        let name = blob_name(*digest);
        match content {
            Content::Bytes(bytes) => file(&mut archive, &name, bytes)?,
            Content::Layer(layer) => {
                let mut file = &*layer.file;
                file.seek(SeekFrom::Start(0))?;
                let header = header(&name, EntryType::Regular, layer.size)?;
                archive.append(&header, file.take(layer.size))?;
            }
        }
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    file(&mut archive, "index.json", index.to_string().as_bytes())?;
    file(&mut archive, "manifest.json", Value::from(items).to_string().as_bytes())?;
    file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.into_inner()?.flush()
}

/// A descriptor for each name of an image, or one without.
fn descriptors(names: &[Reference], parts: &Parts) -> Vec<Value> {
    let descriptor = json!({
        "mediaType": parts.media_type, "digest": Digest::of(&parts.manifest),
        "size": parts.manifest.len(),
    });
    if names.is_empty() {
        return vec![descriptor];
    }
    let named = names.iter().map(|name| {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag(),
        });
        descriptor
    });
    named.collect()
}

/// What docker's `manifest.json` says of an image.
fn item(chosen: &Chosen, parts: &Parts) -> Value {
    let tags: Vec<_> = chosen.names.iter().map(Reference::familiar).collect();
    let layers: Vec<_> = parts.layers.iter().map(|layer| blob_name(layer.digest)).collect();
    json!({
        "Config": blob_name(chosen.image.id),
        "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
        "Layers": layers,
    })
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(name: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn file(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append(&header(name, EntryType::Regular, bytes.len() as u64)?, bytes)
}
