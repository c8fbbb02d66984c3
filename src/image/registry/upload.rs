//! Layers, configurations and manifests on their way to a registry.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use futures_util::stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Body, Method, StatusCode, Url};

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::endpoint::Call;
use super::{Blob, Endpoint, RegistryError};

/// How often a blob is sent where the connection breaks.
const ATTEMPTS: usize = 3;
/// How much is read at once.
const CHUNK: usize = 128 << 10;

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// the registry had it
    There,
    /// it has it now
    Now,
}

type Heard = Arc<dyn Fn(u64) + Send + Sync>;

/// Where a blob is read from.
#[derive(Debug, Clone)]
pub(in crate::image) enum Source {
    Bytes(Vec<u8>),
    File(Arc<File>),
}

/// The scope of a token to push with.
fn push_scope(name: &Reference) -> String {
    format!("repository:{}:pull,push", name.path())
}

impl Endpoint {
    /// Gives the registry a blob, if it does not have it.
    pub(in crate::image) async fn send_blob(
        &self,
        name: &Reference,
        blob: Blob,
        source: &Source,
        heard: Heard,
    ) -> Result<Sent, RegistryError> {
        if self.has(name, blob.digest).await? {
            return Ok(Sent::There);
        }
        let mut attempt = 1;
        loop {
            match self.upload(name, blob, source, &heard).await {
                Ok(()) => return Ok(Sent::Now),
                Err(error) if error.is_passing() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn has(&self, name: &Reference, digest: Digest) -> Result<bool, RegistryError> {
        let scope = push_scope(name);
        let url = self.url(&format!("{}/blobs/{digest}", name.path()))?;
        let call = Call::new(Method::HEAD, url, &scope, name.name());
        let response = self.send(&call, &[StatusCode::NOT_FOUND]).await?;
        Ok(response.status() == StatusCode::OK)
    }

    async fn upload(
        &self,
        name: &Reference,
        blob: Blob,
        source: &Source,
        heard: &Heard,
    ) -> Result<(), RegistryError> {
        let (scope, what) = (push_scope(name), name.name());
        let url = self.url(&format!("{}/blobs/uploads/", name.path()))?;
        let call = Call::new(Method::POST, url.clone(), &scope, what.clone())
            .header(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let response = self.send(&call, &[]).await?;
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.protocol("it takes no upload"))?;
        let mut to = self.follow(&url, location)?;
        to.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let body = || body(source, heard);
        let mut call = Call::new(Method::PUT, to, &scope, what)
            .header(CONTENT_LENGTH, HeaderValue::from(blob.size))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.body = Some(&body);
        self.send(&call, &[]).await.map(drop)
    }

    /// Gives the registry a manifest, under the name's tag or digest.
    pub(in crate::image) async fn send_manifest(
        &self,
        name: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let digest = Digest::of(bytes);
        let asked = name.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let (scope, what) = (push_scope(name), name.familiar());
        let url: Url = self.url(&format!("{}/manifests/{asked}", name.path()))?;
        let kind = HeaderValue::from_str(media_type);
        let kind = kind.map_err(|_| self.protocol("the manifest's media type is invalid"))?;
        let body = || Body::from(bytes.to_vec());
        let mut call = Call::new(Method::PUT, url, &scope, what).header(CONTENT_TYPE, kind);
        call.body = Some(&body);
        let response = self.send(&call, &[]).await?;
        // A registry that keeps another manifest than it was given says so, or will when it is pulled.
        let said = response.headers().get("docker-content-digest");
        let said = said.and_then(|said| said.to_str().ok()?.parse::<Digest>().ok());
        match said.filter(|said| *said != digest) {
            None => Ok(()),
            Some(actual) => {
                let (host, what) = (self.host().to_owned(), "the manifest".to_owned());
                Err(RegistryError::Digest { host, what, expected: digest, actual })
            }
        }
    }
}

/// A body that is read from a source as it is sent.
fn body(source: &Source, heard: &Heard) -> Body {
    let file = match source {
        Source::Bytes(bytes) => return Body::from(bytes.clone()),
        Source::File(file) => file,
    };
    let reader = Chunks { file: Arc::clone(file), position: 0, heard: Arc::clone(heard) };
    Body::wrap_stream(stream::iter(reader))
}

/// A file, piece by piece.
struct Chunks {
    file: Arc<File>,
    position: u64,
    heard: Heard,
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut file = &*self.file;
        let read = file
            .seek(SeekFrom::Start(self.position))
            .and_then(|_| file.take(CHUNK as u64).read_to_end(&mut chunk));
        match read {
            Ok(0) => None,
            Ok(read) => {
                self.position += read as u64;
                (self.heard)(self.position);
                Some(Ok(chunk))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
