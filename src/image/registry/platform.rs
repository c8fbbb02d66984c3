//! What machine an image is for: `linux/amd64`, `linux/arm/v7`.

use std::fmt;
use std::str::FromStr;

use super::super::archive::ARCHITECTURE;

/// Operating system, architecture and its variant, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64")]
pub struct PlatformError(String);

impl Default for Platform {
    /// This machine's.
    fn default() -> Self {
        Self { os: "linux".to_owned(), architecture: ARCHITECTURE.to_owned(), variant: None }
    }
}

impl Platform {
    /// Whether an image for `os` and the rest is one for this; a variant that neither of both names
    /// does not matter.
    #[must_use]
    pub fn takes(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let variants = match (&self.variant, variant) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.os == os && self.architecture == architecture && variants
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let fits = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match *parts {
            // As docker takes them: one word is a system or an architecture.
            ["linux"] => ("linux", ARCHITECTURE, None),
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        if ![os, architecture].iter().all(fits) || !variant.iter().all(fits) {
            return Err(PlatformError(text.to_owned()));
        }
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", None) => ("arm", Some("v7")),
            other => other,
        };
        let owned = str::to_owned;
        Ok(Self { os: owned(os), architecture: owned(architecture), variant: variant.map(owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_docker_s() {
        for (text, full) in [
            ("linux/amd64", "linux/amd64"),
            ("amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), full);
        }
        for text in ["", "/", "a/b/c/d", "linux/", "a b/c"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_variant_matters_where_both_have_one() {
        let arm: Platform = "linux/arm/v7".parse().unwrap();
        assert!(arm.takes("linux", "arm", Some("v7")) && arm.takes("linux", "arm", None));
        assert!(!arm.takes("linux", "arm", Some("v6")) && !arm.takes("linux", "arm64", None));
    }
}
