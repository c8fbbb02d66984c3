//! Manifests: what an image is made of, and the lists of them for several machines.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::endpoint::Call;
use super::{Endpoint, Platform, RegistryError};

/// Indexes within indexes that are followed.
const DEPTH: usize = 4;

const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// The manifest of an image.
#[derive(Debug)]
pub struct Manifest {
    /// byte for byte
    pub bytes: Vec<u8>,
    /// what the name meant: the digest of the manifest, or of the list that it is in
    pub digest: Digest,
    /// what is in it
    pub manifest: ImageManifest,
}

/// What tells one kind from another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
}

/// A document of a registry, whose digest was compared where it was asked for by one.
struct Document {
    bytes: Vec<u8>,
    digest: Digest,
    kind: String,
}

/// The scope of a token to pull with.
pub(super) fn pull_scope(name: &Reference) -> String {
    format!("repository:{}:pull", name.path())
}

impl Endpoint {
    /// The manifest that a name means for a platform.
    ///
    /// # Errors
    ///
    /// If there is none, or what there is cannot be used.
    pub async fn manifest(
        &self,
        name: &Reference,
        platform: &Platform,
        limit: u64,
    ) -> Result<Manifest, RegistryError> {
        let asked = name.digest().map(|digest| digest.to_string());
        let asked = asked.or_else(|| name.tag().map(str::to_owned)).unwrap_or_default();
        let mut document = self.document(name, &asked, limit).await?;
        let digest = document.digest;
        for _ in 0..DEPTH {
            let what = format!("the manifest {}", document.digest);
            if MANIFESTS.contains(&document.kind.as_str()) {
                let manifest = self.json(&what, &document.bytes)?;
                return Ok(Manifest { bytes: document.bytes, digest, manifest });
            }
            if !INDEXES.contains(&document.kind.as_str()) {
                let (host, kind) = (self.host().to_owned(), document.kind);
                return Err(RegistryError::MediaType { host, what, kind });
            }
            let index: ImageIndex = self.json(&what, &document.bytes)?;
            let found = choose(name, &index, platform)?;
            document = self.document(name, found.digest().as_ref(), limit).await?;
        }
        Err(self.protocol(format!("{} is a list of lists of lists", name.familiar())))
    }

    fn json<T: DeserializeOwned>(&self, what: &str, bytes: &[u8]) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes).map_err(|source| {
            let (host, what) = (self.host().to_owned(), what.to_owned());
            RegistryError::Json { host, what, source }
        })
    }

    /// The document of the tag or digest `asked`.
    async fn document(
        &self,
        name: &Reference,
        asked: &str,
        limit: u64,
    ) -> Result<Document, RegistryError> {
        let what = format!("the manifest of {}", name.familiar());
        let expected: Option<Digest> = if asked.contains(':') {
            let digest = asked.parse();
            Some(digest.map_err(|error| self.protocol(format!("{what} names {error}")))?)
        } else {
            None
        };
        let scope = pull_scope(name);
        let url = self.url(&format!("{}/manifests/{asked}", name.path()))?;
        let mut call = Call::new(Method::GET, url, &scope, what.clone());
        for kind in MANIFESTS.into_iter().chain(INDEXES) {
            call = call.header(ACCEPT, HeaderValue::from_static(kind));
        }
        let response = self.send(&call, &[]).await?;
        let said = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let said = said.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let bytes = self.read(response, limit, &what).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let host = self.host().to_owned();
            return Err(RegistryError::Digest { host, what, expected, actual: digest });
        }
        // The document knows better than the registry what it is.
        let kind: Kind = self.json(&what, &bytes)?;
        Ok(Document { bytes, digest, kind: kind.media_type.unwrap_or(said) })
    }

    /// The configuration of an image.
    ///
    /// # Errors
    ///
    /// If it is not there, not what its descriptor says, or larger than `limit`.
    pub async fn config(
        &self,
        name: &Reference,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = format!("the configuration of {}", name.familiar());
        let expected: Digest = descriptor
            .digest()
            .as_ref()
            .parse()
            .map_err(|error| self.protocol(format!("{what} names {error}")))?;
        if descriptor.size() > limit {
            let host = self.host().to_owned();
            return Err(RegistryError::Large { host, what, limit });
        }
        let scope = pull_scope(name);
        let url = self.url(&format!("{}/blobs/{expected}", name.path()))?;
        let call = Call::new(Method::GET, url, &scope, what.clone());
        let bytes = self.read(self.send(&call, &[]).await?, descriptor.size(), &what).await?;
        let (host, actual) = (self.host().to_owned(), Digest::of(&bytes));
        if actual != expected {
            return Err(RegistryError::Digest { host, what, expected, actual });
        }
        Ok(bytes)
    }
}

/// The descriptor of the image for a platform; what is about an image but is none has none.
pub(super) fn choose<'a>(
    name: &Reference,
    index: &'a ImageIndex,
    platform: &Platform,
) -> Result<&'a Descriptor, RegistryError> {
    let platforms =
        || index.manifests().iter().filter_map(|found| Some((found, found.platform().as_ref()?)));
    let fits = platforms().find(|(_, found)| {
        let (os, architecture) = (found.os().to_string(), found.architecture().to_string());
        platform.takes(&os, &architecture, found.variant().as_deref())
    });
    if let Some((found, _)) = fits {
        return Ok(found);
    }
    let known = platforms().map(|(_, found)| format!("{}/{}", found.os(), found.architecture()));
    let mut known: Vec<_> = known.filter(|known| known != "unknown/unknown").collect();
    known.dedup();
    known.truncate(8);
    let found = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
    let (image, wanted) = (name.familiar(), platform.to_string());
    Err(RegistryError::Platform { image, wanted, found })
}
