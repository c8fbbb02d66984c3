//! Layers on their way from a registry into the store.

use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::super::digest::Digest;
use super::super::reference::Reference;
use super::super::store::{Download, StoreError};
use super::endpoint::Call;
use super::manifest::pull_scope;
use super::{Endpoint, RegistryError};

/// How often it is gone on where nothing comes any more.
const ATTEMPTS: usize = 5;

/// What must have come for a connection to count as one that brings something, in bytes.
const PROGRESS: u64 = 64 << 10;

/// A blob as its descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// its digest
    pub digest: Digest,
    /// its size in bytes
    pub size: u64,
}

/// Why a layer did not come.
#[derive(Debug)]
pub(in crate::image) enum Failure {
    Registry(RegistryError),
    Store(StoreError),
}

impl Endpoint {
    /// Brings what a download lacks of a blob, in as many connections as that takes.
    pub(in crate::image) async fn download(
        &self,
        name: &Reference,
        blob: Blob,
        download: &mut Download,
        heard: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Failure> {
        let mut failures = 0;
        while download.length() < blob.size {
            let (before, restarts) = (download.length(), download.restarts());
            let outcome = self.connection(name, blob, download, heard).await;
            if download.length() == blob.size {
                break;
            }
            // Who begins anew each time would never come to an end.
            let goes_on = download.restarts() == restarts
                && download.length() >= before.saturating_add(PROGRESS);
            failures = if goes_on { 1 } else { failures + 1 };
            let problem =
                || self.protocol(format!("it gives no part of the layer {}", blob.digest));
            match outcome {
                Ok(()) if failures < ATTEMPTS => {}
                Ok(()) => return Err(Failure::Registry(problem())),
                Err(Failure::Registry(error)) if error.is_passing() && failures < ATTEMPTS => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// One connection's worth.
    async fn connection(
        &self,
        name: &Reference,
        blob: Blob,
        download: &mut Download,
        heard: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Failure> {
        let what = format!("the layer {}", blob.digest);
        let scope = pull_scope(name);
        let url = self.url(&format!("{}/blobs/{}", name.path(), blob.digest));
        let url = url.map_err(Failure::Registry)?;
        let mut call = Call::new(Method::GET, url, &scope, what.clone());
        let from = download.length();
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            let range = range.map_err(|_| Failure::Registry(self.protocol("a range")))?;
            call = call.header(RANGE, range);
        }
        let unsatisfiable = StatusCode::RANGE_NOT_SATISFIABLE;
        let mut response = self.send(&call, &[unsatisfiable]).await.map_err(Failure::Registry)?;
        let begins = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
            && begins.is_some_and(|range| range.starts_with(&format!("bytes {from}-")));
        if !goes_on && from > 0 {
            download.restart().map_err(Failure::Store)?;
        }
        if !goes_on && response.status() != StatusCode::OK {
            let problem = format!("its answer to a range of {what}");
            return if from > 0 { Ok(()) } else { Err(Failure::Registry(self.protocol(problem))) };
        }
        let wrong_size = || {
            let (host, what) = (self.host().to_owned(), what.clone());
            Failure::Registry(RegistryError::Size { host, what, expected: blob.size })
        };
        let left = blob.size - download.length();
        if response.content_length().is_some_and(|length| length != left) {
            return Err(wrong_size());
        }
        heard(download.length());
        loop {
            let chunk = response.chunk().await;
            let Some(chunk) = chunk.map_err(|error| Failure::Registry(self.failed(error)))? else {
                break;
            };
            if chunk.len() as u64 > blob.size - download.length() {
                return Err(wrong_size());
            }
            download.write(&chunk).map_err(Failure::Store)?;
            heard(download.length());
        }
        if download.length() == blob.size { Ok(()) } else { Err(wrong_size()) }
    }
}
