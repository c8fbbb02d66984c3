//! The host's configuration: what an administrator decides for all sandboxes.
//!
//! `/etc/ampoule/config.toml`, or the file that `AMPOULE_CONFIG` names. Without it everything is as its
//! default says.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::registry::Registries;
use crate::vmm::config::{MAX_MEMORY_MIB, MAX_VCPUS};

/// Where it is.
const PATH: &str = "/etc/ampoule/config.toml";

/// The environment variable that names another one.
const VARIABLE: &str = "AMPOULE_CONFIG";

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Least memory of a pod's machine, in MiB.
const LEAST_MEMORY: u32 = 128;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// the file cannot be read
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// beyond the limit
    #[error("the configuration {} is larger than {LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// not what a configuration is
    #[error("the configuration {} is invalid", path.display())]
    Invalid {
        /// the file
        path: PathBuf,
        /// what is wrong with it, and where
        #[source]
        source: toml::de::Error,
    },
    /// a value that makes no sense
    #[error("the configuration {}: {key}: {reason}", path.display())]
    Value {
        /// the file
        path: PathBuf,
        /// the key
        key: &'static str,
        /// what is wrong with it
        reason: String,
    },
}

/// What is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sandboxes of pods.
    pub pod: PodConfig,
    /// Registries of images, by their names.
    pub registry: Registries,
}

/// Sandboxes of pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodConfig {
    /// vCPUs where no container of a pod has a CPU limit.
    pub vcpus: u8,
    /// Memory in MiB that containers have together where none of them has a limit.
    pub memory_mib: u32,
}

impl Default for PodConfig {
    fn default() -> Self {
        Self { vcpus: 1, memory_mib: 1024 }
    }
}

impl Config {
    /// The host's.
    pub fn load() -> Result<Self, ConfigError> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let path = named.clone().unwrap_or_else(|| PATH.into());
        match read(&path) {
            Ok(text) => parse(&path, &text),
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && named.is_none() =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(error),
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text));
    read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > LIMIT {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let invalid = |source| ConfigError::Invalid { path: path.to_owned(), source };
    let config: Config = toml::from_str(text).map_err(invalid)?;
    let out_of = |key, least: u32, most: u32| {
        let reason = format!("it is to be {least} to {most}");
        Err(ConfigError::Value { path: path.to_owned(), key, reason })
    };
    if !(1..=MAX_VCPUS).contains(&config.pod.vcpus) {
        return out_of("pod.vcpus", 1, MAX_VCPUS.into());
    }
    if !(LEAST_MEMORY..=MAX_MEMORY_MIB).contains(&config.pod.memory_mib) {
        return out_of("pod.memory_mib", LEAST_MEMORY, MAX_MEMORY_MIB);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, ConfigError> {
        parse(Path::new("config.toml"), text)
    }

    #[test]
    fn what_is_not_said_is_as_the_default_says() {
        assert_eq!(parsed("").unwrap(), Config::default());
        let config = parsed("[pod]\nvcpus = 4\n").unwrap();
        assert_eq!((config.pod.vcpus, config.pod.memory_mib), (4, 1024));
    }

    #[test]
    fn what_nobody_knows_and_what_makes_no_sense_is_refused_by_its_name() {
        let told = |text| crate::report::chain(&parsed(text).unwrap_err());
        assert!(told("[pod]\nvpcus = 4\n").contains("vpcus"));
        assert!(told("[sandboxes]\n").contains("sandboxes"));
        assert!(told("[pod]\nvcpus = 0\n").contains("pod.vcpus"));
        assert!(told("[pod]\nmemory_mib = 1\n").contains("pod.memory_mib"));
        assert!(told("[pod\n").contains("config.toml"));
    }
}
