//! Devices as they are given on the command line.

use std::str::FromStr;

use crate::vmm::config::{DiskConfig, Export, FsConfig, NetConfig, Share};
use crate::vmm::host::Opened;

/// A disk: `PATH[,ro]`.
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
    #[error("no tap=NAME")]
    NoTap,
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
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err(ArgError::EmptyPath);
        }
        Ok(Self(DiskConfig {
            path: Some(path.into()),
            read_only,
            serial: None,
            opened: Opened::default(),
        }))
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

/// A network device: `tap=NAME[,mac=M]`.
#[derive(Debug, Clone)]
pub struct Net(pub NetConfig);

impl FromStr for Net {
    type Err = ArgError;

    fn from_str(text: &str) -> Result<Self, ArgError> {
        let (mut tap, mut mac) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("tap", name)) => tap = Some(interface_name(name)?),
                Some(("mac", address)) => mac = Some(hardware_address(address)?),
                _ => return Err(ArgError::Unknown(part.into())),
            }
        }
        Ok(Self(NetConfig {
            tap: Some(tap.ok_or(ArgError::NoTap)?),
            mac,
            opened: Opened::default(),
        }))
    }
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
        assert_eq!(net("mac=02:00:00:00:00:01"), ArgError::NoTap);
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

    proptest! {
        #[test]
        fn parsers_take_anything(text in ".{0,40}") {
            let _ = Disk::from_str(&text);
            let _ = Net::from_str(&text);
            let _ = SharedDirectory::from_str(&text);
        }
    }
}
