//! Which hosts serve a registry's images: mirrors that the host's owner names, then the registry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use reqwest::Url;
use serde::Deserialize;

use super::logins::Logins;
use super::patience::Told;
use super::{Endpoint, RegistryError};
use crate::image::Reference;

/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";
/// Where it is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// What the host's owner says of registries, by their names (`docker.io`, `localhost:5000`).
pub type Registries = BTreeMap<String, RegistryConfig>;

/// What the host's owner says of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Who is asked before it, in this order: `HOST[:PORT]`, or an address with a scheme.
    pub mirrors: Vec<String>,
    /// Whether it may speak without TLS, or with a certificate that nobody vouches for.
    pub insecure: bool,
}

/// How registries are spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the host's owner says of them.
    pub registries: Registries,
    /// Whether certificates must be trusted.
    pub tls_verify: bool,
    /// A folder of certificates, in place of docker's for each registry.
    pub cert_dir: Option<PathBuf>,
    /// Who the user is to them.
    pub logins: Logins,
    /// Hears which of them is waited for, because it wants to be asked later.
    pub told: Told,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            tls_verify: true,
            cert_dir: None,
            logins: Logins::default(),
            told: |_, _| {},
        }
    }
}

/// A host that serves a registry's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Place {
    /// `HOST[:PORT]`, as logins and certificates are named after.
    pub host: String,
    /// Host to connect to, where that is another one.
    pub at: String,
    /// Folder in front of `/v2/`, without a slash at its end.
    pub prefix: String,
    /// The scheme, where it is said.
    pub scheme: Option<&'static str>,
    /// Whether plain HTTP, and certificates that nobody vouches for, are taken.
    pub insecure: bool,
    /// Whether plain HTTP is taken.
    pub plain: bool,
}

/// The registry that a user's text for `login` names: `https://HOST/v1/` as well, and nothing for
/// Docker Hub.
#[must_use]
pub fn registry_of(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

impl Settings {
    /// All that serve an image, to pull it.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Address`] for a mirror that is none.
    pub(in crate::image) fn sources(&self, name: &Reference) -> Result<Vec<Place>, RegistryError> {
        let config = self.registries.get(name.domain());
        let mirrors = config.map(|config| config.mirrors.as_slice()).unwrap_or_default();
        let mut places = Vec::new();
        for mirror in mirrors {
            places.push(self.place(mirror)?);
        }
        places.push(self.place(name.domain())?);
        Ok(places)
    }

    /// The place of an address of the form `[SCHEME://]HOST[:PORT][/PREFIX]`.
    pub(in crate::image) fn place(&self, address: &str) -> Result<Place, RegistryError> {
        let invalid = || RegistryError::Address(address.to_owned());
        let (scheme, rest) = match address.split_once("://") {
            Some(("https", rest)) => (Some("https"), rest),
            Some(("http", rest)) => (Some("http"), rest),
            Some(_) => return Err(invalid()),
            None => (None, address),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let url = Url::parse(&format!("https://{host}/")).map_err(|_| invalid())?;
        if url.username() != "" || url.password().is_some() || host.is_empty() {
            return Err(invalid());
        }
        let insecure = !self.tls_verify || self.registries.get(host).is_some_and(|it| it.insecure);
        let hub = [DOCKER_HUB, "index.docker.io"].contains(&host);
        let at = if hub { DOCKER_HUB_HOST } else { host };
        let prefix = prefix.trim_end_matches('/');
        Ok(Place {
            host: host.to_owned(),
            at: at.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("/{prefix}") },
            scheme,
            insecure,
            plain: insecure || scheme == Some("http") || is_loopback(&url),
        })
    }

    /// The registry of an image itself, to push to.
    ///
    /// # Errors
    ///
    /// If it does not answer, or its certificates are of no use.
    pub async fn registry(&self, domain: &str) -> Result<Endpoint, RegistryError> {
        Endpoint::open(self.place(domain)?, self).await
    }
}

/// Whether a host is this machine, by its name alone: what is said to it goes over no network.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = "[\"docker.io\"]\nmirrors = [\"mirror.test\", \"http://10.0.0.1:5000/hub\"]\n\
                    [\"10.0.0.2:5000\"]\ninsecure = true\n";
        Settings { registries: toml::from_str(text).unwrap(), ..Settings::default() }
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let places = settings().sources(&"busybox".parse().unwrap()).unwrap();
        let hosts: Vec<_> = places.iter().map(|place| place.at.as_str()).collect();
        assert_eq!(hosts, ["mirror.test", "10.0.0.1:5000", "registry-1.docker.io"]);
        assert_eq!(places[1].prefix, "/hub");
        assert_eq!(
            places.iter().map(|place| place.plain).collect::<Vec<_>>(),
            [false, true, false]
        );
    }

    #[test]
    fn without_tls_goes_what_is_said_and_what_stays_here() {
        for (host, plain) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("10.0.0.2:5000", true),
            ("10.0.0.3:5000", false),
            ("localhost.example:5000", false),
        ] {
            assert_eq!(settings().place(host).unwrap().plain, plain, "{host}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in ["", "ftp://x", "u:p@host", "http://", "a b"] {
            assert!(settings().place(address).is_err(), "{address:?}");
        }
    }
}
