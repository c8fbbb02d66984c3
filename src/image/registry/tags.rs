//! The tags that a repository has in its registry.

use reqwest::header::LINK;
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use super::super::reference::Reference;
use super::endpoint::Call;
use super::manifest::pull_scope;
use super::{Endpoint, RegistryError};

/// Most tags that are listened to, and most answers that they come in.
const TAGS: usize = 10_000;
const PAGES: usize = 100;
/// Most of one answer, in bytes.
const PAGE_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Page {
    /// Some registries say null of a repository without any.
    tags: Option<Vec<String>>,
}

impl Endpoint {
    /// The repository's images by all of their tags, in the registry's order.
    ///
    /// # Errors
    ///
    /// If there is no such repository, or what the registry says is no list of tags, or none that ends.
    pub(in crate::image) async fn tags(
        &self,
        name: &Reference,
    ) -> Result<Vec<Reference>, RegistryError> {
        let what = format!("the tags of {}", name.familiar_name());
        let scope = pull_scope(name);
        let mut next = Some(self.url(&format!("{}/tags/list?n=1000", name.path()))?);
        let mut found = Vec::new();
        let endless = || self.protocol(format!("{what} have no end"));
        for _ in 0..PAGES {
            let Some(url) = next.take() else { return Ok(found) };
            let call = Call::new(Method::GET, url.clone(), &scope, what.clone());
            let response = self.send(&call, &[]).await?;
            next = self.following(&url, &response)?;
            let page = self.read(response, PAGE_BYTES, &what).await?;
            let page: Page = serde_json::from_slice(&page).map_err(|source| {
                let (host, what) = (self.host().to_owned(), what.clone());
                RegistryError::Json { host, what, source }
            })?;
            for tag in page.tags.unwrap_or_default() {
                let tagged = name.tagged(&tag);
                found.push(tagged.map_err(|error| self.protocol(error.to_string()))?);
            }
            if found.len() > TAGS {
                return Err(endless());
            }
        }
        Err(endless())
    }

    /// Where the list goes on: `Link: </v2/…>; rel="next"`. Only where it began.
    fn following(&self, from: &Url, response: &Response) -> Result<Option<Url>, RegistryError> {
        let links = response.headers().get_all(LINK).iter().filter_map(|link| link.to_str().ok());
        let mut next =
            links.filter(|link| link.contains("rel=\"next\"") || link.contains("rel=next"));
        let Some(link) = next.next() else { return Ok(None) };
        let target = link.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let target = target.ok_or_else(|| self.protocol("a link leads nowhere"))?.0;
        let url = self.follow(from, target)?;
        match url.origin() == from.origin() {
            true => Ok(Some(url)),
            false => Err(self.protocol("its list of tags goes on elsewhere")),
        }
    }
}
