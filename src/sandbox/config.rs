//! The host's configuration: what an administrator decides for all sandboxes.
//!
//! `/etc/ampoule/config.toml`, or the file that `AMPOULE_CONFIG` names. Without it everything is as its
//! default says.

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::layer;
use crate::image::registry::Registries;
use crate::network::bridge::store::{Pools, Settings};
use crate::vmm::config::{MAX_MEMORY_MIB, MAX_VCPUS};

/// Where it is.
const PATH: &str = "/etc/ampoule/config.toml";

/// A file with every key and its default.
pub const DEFAULT_CONFIG: &str = include_str!("../../deploy/config.toml");

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
    /// What containers write.
    pub storage: StorageConfig,
    /// Networks.
    pub network: NetworkConfig,
    /// Registries of images, by their names.
    pub registry: Registries,
}

/// What containers write to their root file systems.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Where it goes, of containers that are not removed at their end.
    pub layer: Layer,
    /// How large a disk for it is, in bytes.
    #[serde(deserialize_with = "size")]
    pub layer_size: u64,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// To a disk of the container's own, which lasts as long as it does.
    #[default]
    Disk,
    /// To the guest's memory.
    Tmpfs,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { layer: Layer::default(), layer_size: 10 << 30 }
    }
}

/// A size in docker's words, such as `10g`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = parse_size::Config::new().with_binary().parse_size(&text);
    bytes.map_err(|error| D::Error::custom(format!("{text:?} is no size: {error}")))
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

/// Networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Subnet of the default network.
    pub subnet: Ipv4Net,
    /// Where the subnets of other networks come from.
    pub pool: Ipv4Net,
    /// Bits of each of those.
    pub pool_prefix: u8,
    /// Where ampoule has the host forward packets, it forwards none between its other interfaces.
    pub close_forwarding: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let net = |second, prefix| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), prefix);
        Self { subnet: net(201, 16), pool: net(202, 15), pool_prefix: 24, close_forwarding: true }
    }
}

impl NetworkConfig {
    /// What holds for all networks.
    pub fn settings(self) -> Settings {
        let Self { subnet, pool, pool_prefix: prefix, close_forwarding } = self;
        let pools = Pools { default: subnet.trunc(), others: pool.trunc(), prefix };
        Settings { pools, close_forwarding }
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
    for (key, subnet) in
        [("network.subnet", config.network.subnet), ("network.pool", config.network.pool)]
    {
        if !(8..=30).contains(&subnet.prefix_len()) {
            let reason = "it is to be a subnet of 8 to 30 bits".to_owned();
            return Err(ConfigError::Value { path: path.to_owned(), key, reason });
        }
    }
    if !(8..=30).contains(&config.network.pool_prefix) {
        return out_of("network.pool_prefix", 8, 30);
    }
    if !layer::SIZES.contains(&config.storage.layer_size) {
        let reason = "it is to be 32m to 1t".to_owned();
        let key = "storage.layer_size";
        return Err(ConfigError::Value { path: path.to_owned(), key, reason });
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
        let config = parsed("[storage]\nlayer = \"tmpfs\"\nlayer_size = \"64m\"\n").unwrap();
        assert_eq!((config.storage.layer, config.storage.layer_size), (Layer::Tmpfs, 64 << 20));
    }

    #[test]
    fn the_file_with_every_default_has_them_all() {
        assert_eq!(parsed(DEFAULT_CONFIG).unwrap(), Config::default());
        let keys: toml::Table = DEFAULT_CONFIG.parse().unwrap();
        // As many as there are: a new one is to be added there.
        assert_eq!(keys["storage"].as_table().unwrap().len(), 2);
        assert_eq!(keys["pod"].as_table().unwrap().len(), 2);
        assert_eq!(keys["network"].as_table().unwrap().len(), 4);
    }

    #[test]
    fn what_nobody_knows_and_what_makes_no_sense_is_refused_by_its_name() {
        let told = |text| crate::report::chain(&parsed(text).unwrap_err());
        assert!(told("[pod]\nvpcus = 4\n").contains("vpcus"));
        assert!(told("[sandboxes]\n").contains("sandboxes"));
        assert!(told("[pod]\nvcpus = 0\n").contains("pod.vcpus"));
        assert!(told("[pod]\nmemory_mib = 1\n").contains("pod.memory_mib"));
        assert!(told("[storage]\nlayer_size = \"1k\"\n").contains("storage.layer_size"));
        assert!(told("[storage]\nlayer = \"paper\"\n").contains("paper"));
        assert!(told("[network]\nsubnet = \"10.0.0.0/31\"\n").contains("network.subnet"));
        assert!(told("[pod\n").contains("config.toml"));
    }
}
