//! The layout of `docker save`: `manifest.json` names configuration, layers and tags.

use serde::Deserialize;

use super::super::digest::Digest;
use super::super::limits::Budget;
use super::{Archive, ArchiveError, ImageSource, LayerSource};

const MANIFEST: &str = "manifest.json";

/// One element of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn items(archive: &Archive, budget: &mut Budget) -> Result<Option<Vec<Item>>, ArchiveError> {
    let Some(bytes) = archive.small(MANIFEST, budget)? else {
        return Ok(None);
    };
    let invalid = |source| ArchiveError::Json { name: MANIFEST.to_owned(), source };
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}

/// The images that `manifest.json` names; none without it.
pub fn images(
    archive: &Archive,
    budget: &mut Budget,
) -> Result<Option<Vec<ImageSource>>, ArchiveError> {
    let Some(items) = items(archive, budget)? else {
        return Ok(None);
    };
    budget.images(items.len())?;
    items.into_iter().map(|item| image(archive, item, budget)).collect::<Result<_, _>>().map(Some)
}

/// The tags that `manifest.json` has for the image whose configuration has the digest `config`.
pub fn tags(
    archive: &Archive,
    config: Digest,
    budget: &mut Budget,
) -> Result<Vec<String>, ArchiveError> {
    let items = items(archive, budget)?.unwrap_or_default();
    let same = items.into_iter().filter(|item| named_digest(&item.config) == Some(config));
    Ok(same.flat_map(|item| item.repo_tags.unwrap_or_default()).collect())
}

fn image(archive: &Archive, item: Item, budget: &mut Budget) -> Result<ImageSource, ArchiveError> {
    let layers = item.layers.unwrap_or_default();
    budget.layers(layers.len())?;
    let config =
        archive.small(&item.config, budget)?.ok_or_else(|| archive.missing(&item.config))?;
    if let Some(expected) = named_digest(&item.config) {
        let actual = Digest::of(&config);
        if actual != expected {
            return Err(ArchiveError::Digest { name: item.config, expected, actual });
        }
    }
    let layers = layers.into_iter().map(|name| {
        let digest = name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex);
        LayerSource { name, digest, size: None }
    });
    let names = item.repo_tags.unwrap_or_default();
    budget.names(names.len())?;
    Ok(ImageSource { names, config, manifest: None, layers: layers.collect() })
}

/// The digest that a configuration's name states: `HEX.json`, `blobs/sha256/HEX`, `sha256:HEX`.
fn named_digest(name: &str) -> Option<Digest> {
    let name = name.strip_prefix("blobs/sha256/").unwrap_or(name);
    let name = name.strip_prefix("sha256:").unwrap_or(name);
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_in_a_name_is_found() {
        let digest = Digest::of(b"config");
        let hex = digest.hex();
        for name in
            [format!("{hex}.json"), format!("blobs/sha256/{hex}"), format!("sha256:{hex}"), hex]
        {
            assert_eq!(named_digest(&name), Some(digest), "{name}");
        }
        assert_eq!(named_digest("config.json"), None);
    }
}
