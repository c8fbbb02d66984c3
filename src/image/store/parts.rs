//! An image as it is given on: manifest, configuration and layers.

use std::fs::File;
use std::sync::Arc;

use oci_spec::image::ImageManifest;
use serde::Deserialize;
use serde_json::json;

use super::super::digest::Digest;
use super::{Image, Store, StoreError, StoredLayer};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// What an image is made of, byte for byte.
#[derive(Debug)]
pub(in crate::image) struct Parts {
    pub manifest: Vec<u8>,
    /// its media type
    pub media_type: String,
    pub config: Vec<u8>,
    pub layers: Vec<Part>,
}

/// A layer, whose digest was compared.
#[derive(Debug)]
pub(in crate::image) struct Part {
    pub digest: Digest,
    pub size: u64,
    pub file: Arc<File>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
}

impl Store {
    /// The parts of an image. Where it came without a manifest, it gets one that follows from its
    /// configuration and its layers alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoLayers`] where a layer is not there, [`StoreError::Blob`] where one is
    /// damaged.
    pub(in crate::image) fn parts(&self, image: &Image) -> Result<Parts, StoreError> {
        let no_layers = || StoreError::NoLayers(image.id);
        let layers = image.layers()?.ok_or_else(no_layers)?;
        let files = self.hold_layers(&layers)?.ok_or_else(no_layers)?;
        let config = image.config_bytes().to_vec();
        if Digest::of(&config) != image.id {
            let path = image.rootfs.with_file_name(super::CONFIG);
            return Err(StoreError::Damaged { path, source: "it is another image's".into() });
        }
        let manifest = match image.manifest()? {
            Some(manifest) => {
                check(image, &manifest, &layers)?;
                manifest
            }
            None => make(&config, &layers),
        };
        for (layer, file) in layers.iter().zip(&files) {
            self.check_blob(layer.digest, file)?;
        }
        let kind: Option<Kind> = serde_json::from_slice(&manifest).ok();
        let media_type = kind.and_then(|kind| kind.media_type);
        let layers = layers.iter().zip(files).map(|(layer, file)| Part {
            digest: layer.digest,
            size: layer.size,
            file: Arc::new(file),
        });
        Ok(Parts {
            manifest,
            media_type: media_type.unwrap_or_else(|| MANIFEST_TYPE.to_owned()),
            config,
            layers: layers.collect(),
        })
    }
}

/// That a manifest is this image's, and its layers are those that were unpacked.
fn check(image: &Image, manifest: &[u8], layers: &[StoredLayer]) -> Result<(), StoreError> {
    let damaged = |source| StoreError::Damaged { path: image.manifest_path(), source };
    let parsed: ImageManifest =
        serde_json::from_slice(manifest).map_err(|error| damaged(error.into()))?;
    let same = parsed.layers().len() == layers.len()
        && parsed.layers().iter().zip(layers).all(|(named, layer)| {
            named.digest().as_ref() == layer.digest.to_string() && named.size() == layer.size
        });
    if same && parsed.config().digest().as_ref() == image.id.to_string() {
        Ok(())
    } else {
        Err(damaged("it is another image's".into()))
    }
}

/// The manifest of an image that has none.
pub(in crate::image) fn make(config: &[u8], layers: &[StoredLayer]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size})
        })
        .collect();
    let config =
        json!({"mediaType": CONFIG_TYPE, "digest": Digest::of(config), "size": config.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers,
    });
    manifest.to_string().into_bytes()
}
