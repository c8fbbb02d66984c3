//! Gives an image to a registry, byte for byte as it came.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

use super::digest::Digest;
use super::reference::Reference;
use super::registry::{self, Blob, Endpoint, RegistryError, Sent, Settings, Source};
use super::store::{Parts, Store, StoreError};

/// Layers that are sent at once.
const AT_ONCE: usize = 3;

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// the registry
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// the store
    #[error(transparent)]
    Store(#[from] StoreError),
    /// a name that nothing can be pushed to
    #[error("cannot push {0}: only a name and a tag can be pushed to")]
    Digest(String),
}

/// What happens during a push, for who draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// so many layers, in this order
    Layers(&'a [Blob]),
    /// the registry had a layer
    There(Digest),
    /// so much of a layer was sent
    Sent(Digest, u64),
    /// the registry has the whole of a layer
    Done(Digest),
}

/// What the registry has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// digest of the manifest
    pub digest: Digest,
    /// its size in bytes
    pub size: usize,
}

/// Who hears how far a push is.
pub type Hear = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Pushes the image that is called `name` to the registry in its name.
///
/// # Errors
///
/// If there is no such image, its layers are not there or damaged, or the registry does not take it.
pub fn push(
    store: &Store,
    settings: &Settings,
    name: &Reference,
    hear: &Hear,
) -> Result<Pushed, PushError> {
    if name.digest().is_some() {
        return Err(PushError::Digest(name.familiar()));
    }
    // Held until the end, with its layers.
    let image = store.get(&name.to_string())?;
    let parts = store.parts(&image)?;
    let pushed = registry::block_on(work(settings, name, &parts, image.id, hear))??;
    // From now on the registry knows it by this as well.
    store.name(name.at(pushed.digest), image.id)?;
    Ok(pushed)
}

async fn work(
    settings: &Settings,
    name: &Reference,
    parts: &Parts,
    id: Digest,
    hear: &Hear,
) -> Result<Pushed, PushError> {
    let endpoint = settings.registry(name.domain()).await?;
    let mut layers: Vec<(Blob, Source)> = Vec::new();
    for layer in &parts.layers {
        let blob = Blob { digest: layer.digest, size: layer.size };
        if layers.iter().all(|(known, _)| *known != blob) {
            layers.push((blob, Source::File(Arc::clone(&layer.file))));
        }
    }
    let blobs: Vec<Blob> = layers.iter().map(|(blob, _)| *blob).collect();
    hear(Event::Layers(&blobs));
    let sends = layers.into_iter().map(|(blob, source)| send(&endpoint, name, blob, source, hear));
    let mut sends = stream::iter(sends).buffer_unordered(AT_ONCE);
    while let Some(sent) = sends.next().await {
        sent?;
    }
    let config = Blob { digest: id, size: parts.config.len() as u64 };
    let quiet = Arc::new(|_| {});
    endpoint.send_blob(name, config, &Source::Bytes(parts.config.clone()), quiet).await?;
    endpoint.send_manifest(name, &parts.media_type, &parts.manifest).await?;
    Ok(Pushed { digest: Digest::of(&parts.manifest), size: parts.manifest.len() })
}

async fn send(
    endpoint: &Endpoint,
    name: &Reference,
    blob: Blob,
    source: Source,
    hear: &Hear,
) -> Result<(), RegistryError> {
    let heard = {
        let hear = Arc::clone(hear);
        Arc::new(move |bytes| hear(Event::Sent(blob.digest, bytes)))
    };
    match endpoint.send_blob(name, blob, &source, heard).await? {
        Sent::There => hear(Event::There(blob.digest)),
        Sent::Now => hear(Event::Done(blob.digest)),
    }
    Ok(())
}
