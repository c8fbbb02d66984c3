//! Names of images as people write them, and their one full form.
//!
//! The grammar is that of the distribution project ("reference"): `[domain/]path[:tag][@digest]`.
//! `oci_spec::distribution::Reference` knows it as well, but compiles a large regular expression
//! at its first use, which every start of a container would pay for.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// Where a name without a domain comes from.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The path of names of one word there.
const OFFICIAL: &str = "library/";
/// The tag of a name without one.
const DEFAULT_TAG: &str = "latest";
/// Longest name, domain and path together, in bytes.
const NAME_BYTES: usize = 255;

/// The full name of an image: `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {problem}")]
pub struct ReferenceError {
    text: String,
    problem: &'static str,
}

impl Reference {
    /// The name without tag and digest, in full: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as docker shows it: `busybox`, `user/image`, `ghcr.io/user/image`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Name, tag and digest as docker shows them: `busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.with_name(self.familiar_name())
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The host of its registry, as the name has it: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in its registry: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same repository's image of this digest: `docker.io/library/busybox@sha256:…`.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository's image with this tag.
    ///
    /// # Errors
    ///
    /// If that is no tag.
    pub fn tagged(&self, tag: &str) -> Result<Self, ReferenceError> {
        format!("{}:{tag}", self.name()).parse::<Self>().and_then(|tagged| {
            match tagged.tag() == Some(tag) && tagged.digest.is_none() {
                true => Ok(tagged),
                false => Err(ReferenceError { text: tag.to_owned(), problem: "it is no tag" }),
            }
        })
    }

    /// Whether `text`, a reference, is a name alone, so that its tag is but the default one.
    #[must_use]
    pub fn is_bare(text: &str) -> bool {
        !text.contains('@') && !text.rsplit('/').next().unwrap_or_default().contains(':')
    }

    fn with_name(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_name(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Normalises `text` as docker does: the domain, the official path and, where there is
    /// neither tag nor digest, the tag are filled in.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| "what follows @ is not a sha256 digest")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (domain, path) = split_domain(name);
    check_domain(&domain)?;
    check_path(&path)?;
    if domain.len() + 1 + path.len() > NAME_BYTES {
        return Err("the name is longer than 255 bytes");
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { domain, path, tag, digest })
}

/// Domain and path in full. The first part is a domain if it cannot be part of a path, as docker
/// tells them apart: by a dot, a colon, `localhost`, or a capital letter.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

/// `tag := /[\w][\w.-]{0,127}/`
fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = tag.len() <= 128
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-');
    if fits { Ok(()) } else { Err("a tag is up to 128 letters, digits, '_', '.' and '-'") }
}

/// `domain := host [':' port]`, host names of letters, digits, inner hyphens and dots, or an IPv6
/// address in brackets.
fn check_domain(domain: &str) -> Result<(), &'static str> {
    const PROBLEM: &str = "the part before the first '/' is not a host name";
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let port = port.is_none_or(|port| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|c| c.is_ascii_digit())
    });
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => {
            !address.is_empty() && address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':')
        }
        None => host.split('.').all(label),
    };
    if host && port { Ok(()) } else { Err(PROBLEM) }
}

/// `path-component := alpha-numeric [separator alpha-numeric]*`, separators `.`, `_`, `__`, `-`+.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.chars().any(char::is_uppercase) {
        return Err("the repository name must be lower case");
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let component = |part: &str| {
        part.starts_with(plain)
            && part.ends_with(plain)
            && part
                .split(plain)
                .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|c| c == b'-'))
    };
    if path.split('/').all(component) {
        Ok(())
    } else {
        Err(
            "a repository name is lower-case letters and digits, between them '.', '_', '__' or '-'",
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/tool", "docker.io/user/tool:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("Host/x", "Host/x:latest"),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
        ] {
            assert_eq!(full(text), expected, "{text}");
        }
        let digest = Digest::of(b"x");
        assert_eq!(full(&format!("x@{digest}")), format!("docker.io/library/x@{digest}"));
        assert_eq!(full(&format!("x:t@{digest}")), format!("docker.io/library/x:t@{digest}"));
    }

    #[test]
    fn docker_s_short_forms_come_back() {
        for text in ["busybox:latest", "user/tool:1", "ghcr.io/a/b:v1", "localhost:5000/x:y"] {
            assert_eq!(text.parse::<Reference>().unwrap().familiar(), text);
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "@",
            "/",
            "a/",
            "/a",
            "Busybox",
            "a//b",
            "a:",
            "a:b c",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a@sha256:12",
            "a b",
            "host.:1/x",
            "h.x:port/x",
            "ä",
            "../x",
            "a:.t",
            long.as_str(),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_full_form_is_read_as_itself(text in "[a-zA-Z0-9._:/@-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference.clone());
                prop_assert_eq!(reference.familiar().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
