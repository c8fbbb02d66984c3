//! What of a registry's answers this crate itself takes apart, for its fuzz target.

use oci_spec::image::ImageIndex;
use reqwest::Url;

use super::Platform;
use super::challenge::{Challenge, token};
use super::manifest::choose;
use crate::image::Reference;

/// The token server of a challenge, if it is one for tokens.
#[must_use]
pub fn realm(challenge: &str, plain: bool) -> Option<Url> {
    match Challenge::parse([challenge].into_iter(), plain) {
        Ok(Challenge::Bearer { realm, .. }) => Some(realm),
        _ => None,
    }
}

/// The token in a token server's answer.
#[must_use]
pub fn token_of(answer: &[u8]) -> Option<String> {
    token(answer).ok()
}

/// Which image of a list is for a platform: its digest, and whether it is in the list.
#[must_use]
pub fn chosen(list: &[u8], platform: &Platform) -> Option<(String, bool)> {
    let list: ImageIndex = serde_json::from_slice(list).ok()?;
    let name: Reference = "box".parse().ok()?;
    let found = choose(&name, &list, platform).ok()?;
    let there = list.manifests().contains(found);
    Some((found.digest().to_string(), there))
}
