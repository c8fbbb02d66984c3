//! Takes an image from a registry.
//!
//! Manifest and configuration first, then who has a say in it, then the layers that are missing,
//! some at a time, and at last the one file system of them all: what is not whole has no name.

use std::fs::File;

use futures_util::StreamExt;
use futures_util::stream;

use super::archive::{Archive, ArchiveError, ImageSource, LayerSource};
use super::digest::Digest;
use super::limits::{Budget, LimitError, Room};
use super::reference::Reference;
use super::registry::{self, Blob, Endpoint, Manifest, Platform, RegistryError, Settings};
use super::store::{
    Download, Layers, LoadError, Planned, Progress, Store, StoreError, Wanted, plan,
};

/// Layers that are fetched at once (docker's default).
const AT_ONCE: usize = 3;

/// Why an image was not pulled. It is not in the store then; layers that came whole are, for the
/// next time.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// the registry
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// what came from it
    #[error("cannot use the image {name}")]
    Image {
        /// its name
        name: String,
        /// why
        #[source]
        source: Box<LoadError>,
    },
    /// the image is larger than any is
    #[error("the image {name} is refused")]
    Limit {
        /// its name
        name: String,
        /// the bound
        #[source]
        source: LimitError,
    },
    /// the store
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What happens during a pull, for who draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// the manifest is there: so many layers, in this order
    Layers(&'a [Blob]),
    /// a layer was there
    There(Digest),
    /// a layer waits for who else fetches it, or for its turn
    Waiting(Digest),
    /// so much of a layer has come
    Fetched(Digest, u64),
    /// the whole of a layer has come
    Done(Digest),
    /// a layer of the store is not what its name says: it is set aside, and fetched again
    Damaged(Digest),
    /// the layers are put on one another
    Unpacking(Progress),
}

/// What was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// the id of the image
    pub id: Digest,
    /// what its name means in the registry
    pub digest: Digest,
    /// whether the store did not have it so
    pub new: bool,
}

/// The images that a repository has in its registry (or a mirror of that), by all of their tags.
///
/// # Errors
///
/// If nobody tells.
pub fn tags(settings: &Settings, name: &Reference) -> Result<Vec<Reference>, PullError> {
    let work = async {
        let mut last = None;
        for place in settings.sources(name)? {
            let listed = match Endpoint::open(place, settings).await {
                Ok(endpoint) => endpoint.tags(name).await,
                Err(error) => Err(error),
            };
            match listed {
                Ok(tags) => return Ok(tags),
                // What the registry itself says is the last word.
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Address(name.domain().to_owned())))
    };
    Ok(registry::block_on(work)??)
}

/// Pulls images into a store.
#[derive(Debug)]
pub struct Puller<'a> {
    /// where they go
    pub store: &'a Store,
    /// how registries are spoken to
    pub settings: &'a Settings,
    /// for which machine; this one by default
    pub platform: Option<Platform>,
}

impl Puller<'_> {
    /// Pulls the image `name`: from a mirror, or its registry. What the store has is not fetched.
    ///
    /// # Errors
    ///
    /// If the registry does not give it, or what it gives cannot be used, or the store cannot be
    /// written.
    pub fn pull(
        &self,
        name: &Reference,
        hear: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Pulled, PullError> {
        registry::block_on(self.work(name, hear))?
    }

    async fn work(
        &self,
        name: &Reference,
        hear: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Pulled, PullError> {
        let unusable =
            |source| PullError::Image { name: name.familiar(), source: Box::new(source) };
        let (endpoints, manifest, config) = self.find(name).await?;
        let digest = manifest.digest;
        let planned = self.plan(name, manifest, config).map_err(unusable)?;
        let planned = [planned];
        self.store.accept(&planned).map_err(unusable)?;
        let [image] = &planned;
        let id = image.id;
        let named = self.store.get(&name.to_string()).is_ok_and(|known| known.id == id);
        let stored = self.store.stored(image)?;
        let new = !(named && stored.is_some());
        let blobs = blobs(image);
        hear(Event::Layers(&blobs));
        let held = if stored.is_some() {
            blobs.iter().for_each(|blob| hear(Event::There(blob.digest)));
            Vec::new()
        } else {
            self.check_size(name, &blobs)?;
            self.fetch_all(name, &endpoints, &blobs, hear).await?
        };
        let held = Held { name, endpoints: &endpoints, layers: held };
        self.unpack(held, &planned, hear).await?;
        Ok(Pulled { id, digest, new })
    }

    /// Manifest and configuration, from the first that has them; it, and who comes after it.
    async fn find(
        &self,
        name: &Reference,
    ) -> Result<(Vec<Endpoint>, Manifest, Vec<u8>), PullError> {
        let limit = self.store.limits().json_bytes;
        let platform = self.platform.clone().unwrap_or_default();
        let mut last = None;
        let mut found = None;
        let mut endpoints = Vec::new();
        for place in self.settings.sources(name)? {
            let endpoint = match Endpoint::open(place, self.settings).await {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            if found.is_none() {
                match endpoint.image(name, &platform, limit).await {
                    Ok(image) => found = Some(image),
                    // What the registry itself says is the last word.
                    Err(error) => {
                        last = Some(error);
                        continue;
                    }
                }
            }
            endpoints.push(endpoint);
        }
        match (found, last) {
            (Some((manifest, config)), _) => Ok((endpoints, manifest, config)),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(RegistryError::Address(name.domain().to_owned()).into()),
        }
    }

    /// Checks what can be checked without the layers.
    fn plan(
        &self,
        name: &Reference,
        manifest: Manifest,
        config: Vec<u8>,
    ) -> Result<Planned, LoadError> {
        let digest = manifest.digest;
        let mut names = vec![name.at(digest).to_string()];
        if name.digest().is_none() {
            names.push(name.to_string());
        }
        let layers = manifest.manifest.layers();
        Budget::new(self.store.limits().clone(), self.store.root())
            .layers(layers.len())
            .map_err(ArchiveError::from)?;
        let layers = layers.iter().map(|layer| {
            let digest = layer.digest().as_ref().parse::<Digest>();
            let digest = digest.map_err(|source| ArchiveError::DigestSyntax {
                name: "the manifest".to_owned(),
                source,
            })?;
            let name = format!("blobs/sha256/{}", digest.hex());
            Ok(LayerSource { name, digest: Some(digest), size: Some(layer.size()) })
        });
        let layers = layers.collect::<Result<_, ArchiveError>>()?;
        let planned = plan(ImageSource { names, config, manifest: Some(manifest.bytes), layers })?;
        if let Some(platform) = &self.platform {
            planned.check_platform(platform)?;
        }
        Ok(planned)
    }

    /// Refuses what is larger than any image, or than the room that is left.
    fn check_size(&self, name: &Reference, blobs: &[Blob]) -> Result<(), PullError> {
        let refused = |source| PullError::Limit { name: name.familiar(), source };
        let limits = self.store.limits();
        let mut budget = Budget::new(limits.clone(), self.store.root());
        let mut missing = 0_u64;
        for blob in blobs {
            budget.unpacked(blob.size).map_err(refused)?;
            if self.store.hold_blob(blob.digest, blob.size)?.is_none() {
                missing = missing.saturating_add(blob.size);
            }
        }
        let room = Room::new(limits, self.store.root()).stored(missing);
        room.map_err(|_| StoreError::Full { path: self.store.root().to_owned() }.into())
    }

    /// Fetches the layers that are missing, some at a time; all of them, held.
    async fn fetch_all(
        &self,
        name: &Reference,
        endpoints: &[Endpoint],
        blobs: &[Blob],
        hear: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Vec<File>, PullError> {
        let mut unique: Vec<Blob> = Vec::new();
        for blob in blobs {
            if unique.iter().all(|known| known.digest != blob.digest) {
                unique.push(*blob);
            }
        }
        let fetches = unique.into_iter().map(|blob| self.fetch(name, endpoints, blob, hear));
        let mut fetches = stream::iter(fetches).buffer_unordered(AT_ONCE);
        let mut held = Vec::new();
        while let Some(layer) = fetches.next().await {
            held.push(layer?);
        }
        Ok(held)
    }

    async fn fetch(
        &self,
        name: &Reference,
        endpoints: &[Endpoint],
        blob: Blob,
        hear: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<File, PullError> {
        hear(Event::Waiting(blob.digest));
        let store = self.store.clone();
        // Another pull may have it in hand: the layers beside it need not wait for that.
        let wanted = tokio::task::spawn_blocking(move || store.want(blob.digest, blob.size)).await;
        let wanted = wanted.map_err(|error| RegistryError::Runtime(error.into()))??;
        let mut download = match wanted {
            Wanted::There(file) => {
                hear(Event::There(blob.digest));
                return Ok(file);
            }
            Wanted::Missing(download) => *download,
        };
        let heard = |bytes| hear(Event::Fetched(blob.digest, bytes));
        let mut last = RegistryError::Address(name.domain().to_owned());
        for endpoint in endpoints {
            // What another pull left may be what is wrong.
            let attempts = if download.is_resumed() { 2 } else { 1 };
            for _ in 0..attempts {
                match fetch_from(endpoint, name, blob, &mut download, &heard).await? {
                    Ok(file) => {
                        hear(Event::Done(blob.digest));
                        return Ok(file);
                    }
                    Err(error) => last = error,
                }
                if !matches!(last, RegistryError::Digest { .. }) {
                    break;
                }
            }
        }
        let wrong = matches!(last, RegistryError::Digest { .. } | RegistryError::Size { .. });
        if wrong || download.length() == 0 {
            download.give_up();
        }
        Err(last.into())
    }

    /// Makes one file system of the layers. A layer of the store that turns out to be damaged is set
    /// aside and fetched again.
    async fn unpack(
        &self,
        mut held: Held<'_>,
        planned: &[Planned; 1],
        hear: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<(), PullError> {
        let [image] = planned;
        let known = held.name.familiar();
        let unusable = |source| PullError::Image { name: known.clone(), source: Box::new(source) };
        for _ in 0..=image.source.layers.len() {
            let staging = self.store.stage()?;
            let archive = Archive::open_directory(self.store.root())
                .map_err(|error| unusable(error.into()))?;
            let budget = Budget::new(self.store.limits().clone(), staging.path());
            let mut progress = |progress| hear(Event::Unpacking(progress));
            let (layers, planned) = (Layers::Here, planned.as_slice());
            let taken = self.store.take(&archive, layers, planned, &staging, budget, &mut progress);
            let damaged = match taken {
                Ok(_) => return Ok(()),
                Err(LoadError::Archive(ArchiveError::Digest { expected, .. })) => expected,
                Err(error) => return Err(unusable(self.store.name_if_full(error))),
            };
            let Some(blob) = blobs(image).into_iter().find(|blob| blob.digest == damaged) else {
                break;
            };
            self.store.set_aside(damaged)?;
            hear(Event::Damaged(damaged));
            let again = self.fetch(held.name, held.endpoints, blob, hear).await?;
            held.layers.push(again);
        }
        Err(StoreError::NoLayers(image.id).into())
    }
}

/// What a pull has in hand.
struct Held<'a> {
    name: &'a Reference,
    endpoints: &'a [Endpoint],
    layers: Vec<File>,
}

impl Endpoint {
    /// Manifest and configuration of an image.
    async fn image(
        &self,
        name: &Reference,
        platform: &Platform,
        limit: u64,
    ) -> Result<(Manifest, Vec<u8>), RegistryError> {
        let manifest = self.manifest(name, platform, limit).await?;
        let config = self.config(name, manifest.manifest.config(), limit).await?;
        Ok((manifest, config))
    }
}

/// The layers of a planned image, which has their digests and sizes.
fn blobs(image: &Planned) -> Vec<Blob> {
    let layers = image.source.layers.iter();
    layers.filter_map(|layer| Some(Blob { digest: layer.digest?, size: layer.size? })).collect()
}

/// Fetches a layer from one host and puts it in its place.
async fn fetch_from(
    endpoint: &Endpoint,
    name: &Reference,
    blob: Blob,
    download: &mut Download,
    heard: &(dyn Fn(u64) + Sync),
) -> Result<Result<File, RegistryError>, PullError> {
    use registry::Failure;
    match endpoint.download(name, blob, download, heard).await {
        Ok(()) => {}
        Err(Failure::Registry(error)) => return Ok(Err(error)),
        Err(Failure::Store(error)) => {
            // On a full disk, a part is in the way of others.
            if matches!(error, StoreError::Full { .. }) {
                download.give_up();
            }
            return Err(error.into());
        }
    }
    match download.finish()? {
        Ok(file) => Ok(Ok(file)),
        Err(actual) => {
            let (host, expected) = (endpoint.host().to_owned(), blob.digest);
            let what = "a layer".to_owned();
            Ok(Err(RegistryError::Digest { host, what, expected, actual }))
        }
    }
}
