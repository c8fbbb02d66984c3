//! The OCI image layout (image-spec, image-layout.md): `index.json`, and blobs by their digests.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::de::DeserializeOwned;

use super::super::digest::Digest;
use super::super::limits::Budget;
use super::{ARCHITECTURE, Archive, ArchiveError, ImageSource, LayerSource, docker};

const INDEX: &str = "index.json";
/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Full name of an image, by containerd and docker.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Name or tag of an image (annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Marks what is about an image but is none, such as a build attestation.
const DOCKER_REFERENCE: &str = "vnd.docker.reference.type";

/// The images that `index.json` names; none without it.
pub fn images(
    archive: &Archive,
    budget: &mut Budget,
) -> Result<Option<Vec<ImageSource>>, ArchiveError> {
    let Some(bytes) = archive.small(INDEX, budget)? else {
        return Ok(None);
    };
    let index: ImageIndex = json(INDEX, &bytes)?;
    budget.images(index.manifests().len())?;
    // Several descriptors may name one image, each with another name.
    let mut images: Vec<ImageSource> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let candidates = index.manifests().iter().filter(|found| is_image(found));
    for descriptor in candidates {
        let name = image_name(descriptor);
        if let Some(image) =
            known.get(descriptor.digest().as_ref()).and_then(|at| images.get_mut(*at))
        {
            image.names.extend(name);
            continue;
        }
        let (manifest_name, manifest) = find_manifest(archive, descriptor, budget)?;
        let mut image = image(archive, &manifest_name, manifest, budget)?;
        image.names.extend(name);
        if image.names.is_empty() {
            image.names = docker::tags(archive, Digest::of(&image.config), budget)?;
        }
        budget.names(image.names.len())?;
        known.insert(descriptor.digest().to_string(), images.len());
        images.push(image);
    }
    if images.is_empty() { Err(ArchiveError::NoImage) } else { Ok(Some(images)) }
}

fn json<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    let invalid = |source| ArchiveError::Json { name: name.to_owned(), source };
    serde_json::from_slice(bytes).map_err(invalid)
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a String> {
    descriptor.annotations().as_ref()?.get(key)
}

/// The name of an image; a reference name that is but a tag names nothing.
fn image_name(descriptor: &Descriptor) -> Option<String> {
    let full = annotation(descriptor, CONTAINERD_NAME);
    let name = annotation(descriptor, REF_NAME).filter(|name| name.contains([':', '/']));
    full.or(name).cloned()
}

fn is_image(descriptor: &Descriptor) -> bool {
    annotation(descriptor, DOCKER_REFERENCE).is_none()
}

fn is_index(descriptor: &Descriptor) -> bool {
    match descriptor.media_type() {
        MediaType::ImageIndex => true,
        other => other.as_ref() == "application/vnd.docker.distribution.manifest.list.v2+json",
    }
}

/// The manifest for this machine behind a descriptor, and its name in the archive. Archives of
/// one platform may carry an index that lists them all.
fn find_manifest(
    archive: &Archive,
    descriptor: &Descriptor,
    budget: &mut Budget,
) -> Result<(String, Vec<u8>), ArchiveError> {
    let mut descriptor = descriptor.clone();
    for _ in 0..MAX_DEPTH {
        let (name, bytes) = document(archive, &descriptor, budget)?;
        if !is_index(&descriptor) {
            return Ok((name, bytes));
        }
        let index: ImageIndex = json(&name, &bytes)?;
        let images = index.manifests().iter().filter(|found| is_image(found));
        let Some(found) = images.clone().find(|found| fits(found)) else {
            let mut platforms: Vec<_> = images.filter_map(platform).collect();
            platforms.truncate(8);
            return Err(ArchiveError::Platform(platforms.join(", ")));
        };
        descriptor = found.clone();
    }
    Err(ArchiveError::NoImage)
}

fn platform(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    Some(format!("{}/{}", platform.os(), platform.architecture()))
}

fn fits(descriptor: &Descriptor) -> bool {
    platform(descriptor).is_none_or(|platform| platform == format!("linux/{ARCHITECTURE}"))
}

/// The JSON document that `descriptor` points to, of the size and digest that it states.
fn document(
    archive: &Archive,
    descriptor: &Descriptor,
    budget: &mut Budget,
) -> Result<(String, Vec<u8>), ArchiveError> {
    let (name, expected) = blob_name(INDEX, descriptor)?;
    let bytes = archive.small(&name, budget)?.ok_or_else(|| archive.missing(&name))?;
    let actual = Digest::of(&bytes);
    if bytes.len() as u64 != descriptor.size() {
        let (expected, actual) = (descriptor.size(), bytes.len() as u64);
        return Err(ArchiveError::Size { name, expected, actual });
    }
    if actual != expected {
        return Err(ArchiveError::Digest { name, expected, actual });
    }
    Ok((name, bytes))
}

fn blob_name(within: &str, descriptor: &Descriptor) -> Result<(String, Digest), ArchiveError> {
    let digest: Digest = descriptor
        .digest()
        .as_ref()
        .parse()
        .map_err(|source| ArchiveError::DigestSyntax { name: within.to_owned(), source })?;
    Ok((format!("blobs/sha256/{}", digest.hex()), digest))
}

fn image(
    archive: &Archive,
    name: &str,
    bytes: Vec<u8>,
    budget: &mut Budget,
) -> Result<ImageSource, ArchiveError> {
    let manifest: ImageManifest = json(name, &bytes)?;
    budget.layers(manifest.layers().len())?;
    let (_, config) = document(archive, manifest.config(), budget)?;
    let layers = manifest.layers().iter().map(|layer| {
        let (blob, digest) = blob_name(name, layer)?;
        Ok(LayerSource { name: blob, digest: Some(digest), size: Some(layer.size()) })
    });
    let layers = layers.collect::<Result<_, ArchiveError>>()?;
    Ok(ImageSource { names: Vec::new(), config, manifest: Some(bytes), layers })
}
