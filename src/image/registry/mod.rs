//! Registries: OCI distribution-spec 1.1, and docker's version 2 before it.
//!
//! ```text
//! hosts (which, in which order) ─► endpoint (TLS, redirects, bounds) ─► challenge (tokens)
//!                                     └─► manifest · download · upload
//! ```
//!
//! All that a registry says is hostile: documents, blobs, redirects and waits have bounds, digests
//! are compared, and what the user is known by goes to the registry that it is for and to nobody
//! else. The crate `oci-client` was looked at: it reads answers of any size, follows redirects and
//! asks for tokens wherever it is told to.

mod challenge;
mod download;
mod endpoint;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hosts;
mod login;
pub mod logins;
mod manifest;
mod patience;
mod platform;
mod tags;
mod tls;
mod upload;

pub use download::Blob;
pub(super) use download::Failure;
pub use endpoint::Endpoint;
pub use error::RegistryError;
pub use hosts::{Registries, RegistryConfig, Settings, registry_of};
pub use login::check_login;
pub use logins::{LoginError, Logins};
pub use manifest::Manifest;
pub use patience::Told;
pub use platform::{Platform, PlatformError};
pub use upload::Sent;
pub(super) use upload::Source;

use std::future::Future;

/// Runs what speaks to a registry to its end.
///
/// # Errors
///
/// [`RegistryError::Runtime`] if it could not begin.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, RegistryError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RegistryError::Runtime)?;
    let done = runtime.block_on(work);
    // What waits for another pull's lock is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// A registry's own words about what went wrong, with a colon before them, and no more of them than
/// a line or two.
fn said(words: &str) -> String {
    let words: String = words.trim().chars().take(400).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}
