//! Devices as they are given on the command line.

use std::str::FromStr;

use crate::cli::arguments::size;
use crate::vmm::config::{DiskConfig, Export, FsConfig, NetBackend, NetConfig, Share};
use crate::vmm::devices::virtio::net;
use crate::vmm::host::Opened;
use crate::vmm::rate::{RateLimiter, TokenBucket};

/// A disk: `PATH[,ro][,bps=RATE][,iops=RATE]`.
#[derive(Debug, Clone)]
pub struct Disk(pub DiskConfig);

/// An argument that is not of the form that its help shows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    /// of a disk or a share
    #[error("the path is empty")]
    EmptyPath,
    /// of a share
    #[error("not of the form tag=NAME,path=DIR[,ro]")]
    Share,
    /// of a network device
    #[error("neither tap=NAME nor stream=PATH")]
    NoBackend,
    /// of a network device
    #[error("more than one tap= or stream=")]
    TwoBackends,
    /// of a limit
    #[error("{0:?} is no rate: a number per second such as 10m, or SIZE/MILLISECONDS[/BURST]")]
    Rate(String),
    /// too long, or with characters that Linux does not take
    #[error("{0:?} is no name of an interface: 1 to 15 characters without '/' or spaces")]
    TapName(String),
    /// a part that is not of the form
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// of a group, or malformed
    #[error("{0:?} is no unicast hardware address such as 02:00:00:00:00:01")]
    Mac(String),
}

impl FromStr for Disk {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        // The path is what is left when all that is known is taken off its end, whatever it contains.
        let mut disk = DiskConfig::default();
        let mut path = text;
        while let Some((rest, part)) = path.rsplit_once(',') {
            match part.split_once('=') {
                None if part == "ro" => disk.read_only = true,
                Some((key @ ("bps" | "iops"), rate)) => {
                    set_rate(&mut disk.rate_limiter, key, rate)?;
                }
                _ => break,
            }
            path = rest;
        }
        if path.is_empty() {
            return Err(ArgError::EmptyPath);
        }
        disk.path = Some(path.into());
        Ok(Self(disk))
    }
}

/// A directory that is shared: `tag=NAME,path=DIR[,ro]`.
#[derive(Debug, Clone)]
pub struct SharedDirectory(pub FsConfig);

impl FromStr for SharedDirectory {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let (text, read_only) = match text.strip_suffix(",ro") {
            Some(text) => (text, true),
            None => (text, false),
        };
        // The path is the rest, whatever it contains.
        let parts = text.strip_prefix("tag=").and_then(|rest| rest.split_once(",path="));
        let (tag, path) = parts.ok_or(ArgError::Share)?;
        if path.is_empty() {
            return Err(ArgError::EmptyPath);
        }
        let export = Export::Directory(Share { path: path.into(), read_only });
        Ok(Self(FsConfig { tag: tag.into(), export: Some(export), opened: Opened::default() }))
    }
}

/// A network device: `tap=NAME|stream=PATH[,mac=M][,rx-bps=RATE][,rx-pps=RATE][,tx-bps=RATE][,tx-pps=RATE]`.
#[derive(Debug, Clone)]
pub struct Net(pub NetConfig);

impl FromStr for Net {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let mut net = NetConfig::default();
        for part in text.split(',') {
            let unknown = || ArgError::Unknown(part.into());
            let (key, value) = part.split_once('=').ok_or_else(unknown)?;
            match key {
                "tap" | "stream" if net.backend.is_some() => return Err(ArgError::TwoBackends),
                "tap" => {
                    net.backend = Some(NetBackend::Tap { name: interface_name(value)?, queues: 1 });
                }
                "stream" if value.is_empty() => return Err(ArgError::EmptyPath),
                "stream" => net.backend = Some(NetBackend::Stream(value.into())),
                "mac" => net.mac = Some(hardware_address(value)?),
                _ => match (key.strip_prefix("rx-"), key.strip_prefix("tx-")) {
                    (Some(rate), _) => set_rate(&mut net.rx_rate_limiter, rate, value)?,
                    (_, Some(rate)) => set_rate(&mut net.tx_rate_limiter, rate, value)?,
                    _ => return Err(ArgError::Unknown(part.into())),
                },
            }
        }
        net.backend.as_ref().ok_or(ArgError::NoBackend)?;
        Ok(Self(net))
    }
}

impl Net {
    /// The device's configuration in a machine with so many vCPUs.
    pub fn with_vcpus(mut self, vcpus: u8) -> NetConfig {
        if let Some(NetBackend::Tap { queues, .. }) = &mut self.0.backend {
            *queues = net::pairs(vcpus);
        }
        self.0
    }
}

/// Sets a limit: bytes or requests in a second, or a bucket `SIZE/MILLISECONDS[/BURST]`.
fn set_rate(limiter: &mut RateLimiter, key: &str, text: &str) -> Result<(), ArgError> {
    let bucket = || {
        let mut parts = text.split('/');
        let bytes = |text: &str| size(text).ok();
        let size = bytes(parts.next()?)?;
        let Some(refill_time) = parts.next() else {
            return Some(TokenBucket::per_second(size));
        };
        let refill_time = refill_time.parse().ok()?;
        let one_time_burst = parts.next().map_or(Some(0), bytes)?;
        parts.next().is_none().then_some(TokenBucket { size, one_time_burst, refill_time })
    };
    let limit = bucket().filter(TokenBucket::limits);
    let limit = Some(limit.ok_or_else(|| ArgError::Rate(text.into()))?);
    match key {
        "bps" => limiter.bandwidth = limit,
        "pps" | "iops" => limiter.ops = limit,
        _ => return Err(ArgError::Unknown(key.into())),
    }
    Ok(())
}

/// What Linux takes as an interface's name (`dev_valid_name`).
fn interface_name(name: &str) -> Result<String, ArgError> {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if !fits || name == "." || name == ".." || name.contains(bad) {
        return Err(ArgError::TapName(name.into()));
    }
    Ok(name.into())
}

fn hardware_address(text: &str) -> Result<[u8; 6], ArgError> {
    let wrong = || ArgError::Mac(text.into());
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
        *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(wrong)?;
    }
    let [first, ..] = address;
    // Bit 0 of the first byte marks a group of interfaces.
    if parts.next().is_some() || first & 1 == 1 || address == [0; 6] {
        return Err(wrong());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_devices_are_told_apart() {
        let net = |text: &str| Net::from_str(text).map(|_| ()).unwrap_err();
        assert_eq!(net("mac=02:00:00:00:00:01"), ArgError::NoBackend);
        assert_eq!(net("tap=a/b"), ArgError::TapName("a/b".into()));
        assert_eq!(net("tap=0123456789abcdef"), ArgError::TapName("0123456789abcdef".into()));
        assert_eq!(net("tap=a,mtu=3"), ArgError::Unknown("mtu=3".into()));
        for mac in ["", "02:00", "01:00:00:00:00:00", "02:00:00:00:00:00:00", "+2:00:00:00:00:00"] {
            assert_eq!(net(&format!("tap=a,mac={mac}")), ArgError::Mac(mac.into()));
        }
        let share = |text: &str| SharedDirectory::from_str(text).map(|_| ()).unwrap_err();
        assert_eq!(share("path=d,tag=t"), ArgError::Share);
        assert_eq!(share("tag=t,path=,ro"), ArgError::EmptyPath);
        assert_eq!(Disk::from_str(",ro").map(|_| ()).unwrap_err(), ArgError::EmptyPath);
    }

    #[test]
    fn rates_are_a_number_per_second_or_a_bucket() {
        let Disk(disk) = Disk::from_str("a,b,ro,bps=1m,iops=50/10/7").unwrap();
        assert_eq!((disk.path, disk.read_only), (Some("a,b".into()), true));
        let bandwidth = TokenBucket { size: 104_858, one_time_burst: 0, refill_time: 100 };
        let ops = TokenBucket { size: 50, one_time_burst: 7, refill_time: 10 };
        let both = RateLimiter { bandwidth: Some(bandwidth), ops: Some(ops) };
        assert_eq!(disk.rate_limiter, both);
        let Net(net) = Net::from_str("stream=/s,rx-bps=1m,tx-pps=50/10/7").unwrap();
        assert_eq!(net.backend, Some(NetBackend::Stream("/s".into())));
        assert_eq!(net.rx_rate_limiter, RateLimiter { ops: None, ..both });
        assert_eq!(net.tx_rate_limiter, RateLimiter { bandwidth: None, ..both });
        for wrong in ["", "0", "x", "1/", "1/0", "1/2/3/4", "-1"] {
            let error = Net::from_str(&format!("tap=a,rx-bps={wrong}")).map(|_| ()).unwrap_err();
            assert_eq!(error, ArgError::Rate(wrong.into()));
        }
        let error = Net::from_str("tap=a,rx-mbps=1").map(|_| ()).unwrap_err();
        assert_eq!(error, ArgError::Unknown("mbps".into()));
        let error = Net::from_str("tap=a,stream=/s").map(|_| ()).unwrap_err();
        assert_eq!(error, ArgError::TwoBackends);
    }

    proptest! {
        #[test]
        fn parsers_take_anything(text in ".{0,40}") {
            let _ = Disk::from_str(&text);
            let _ = Net::from_str(&text);
            let _ = SharedDirectory::from_str(&text);
        }

        #[test]
        fn rates_take_anything(text in "[0-9kmgx/.]{0,20}") {
            for option in [format!("tap=t,rx-bps={text}"), format!("tap=t,tx-pps={text}")] {
                if let Ok(net) = Net::from_str(&option) {
                    let limits = [net.0.rx_rate_limiter, net.0.tx_rate_limiter];
                    prop_assert!(limits.iter().any(RateLimiter::limits));
                }
            }
        }
    }
}
