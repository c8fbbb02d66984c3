//! Disks of the host that a sandbox's containers have: a root file system that a snapshotter keeps on one,
//! and volumes that are block devices. Each takes a slot of the machine while its container is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ampoule_protocol::message::BlockDevice;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::error::{ShimError, file};
use super::keeper::Keeper;
use super::lock;
use crate::sandbox::Slots;
use crate::vmm::config::DiskConfig;

/// Permissions of a device node that names none.
const MODE: u32 = 0o660;

/// Slots, and which of them are taken.
#[derive(Debug, Default)]
pub struct Disks {
    taken: Mutex<[bool; Slots::POD.disks as usize]>,
}

/// A disk that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// The slot.
    pub slot: u8,
    /// The serial number that the guest knows it by.
    pub serial: String,
    /// Its length, in sectors of 512 bytes.
    pub sectors: u64,
}

/// A block device of the host that a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    device: LinuxDevice,
    read_only: bool,
}

impl Disks {
    /// Plugs a disk into a free slot.
    pub fn plug(
        &self,
        keeper: &Keeper,
        path: &Path,
        read_only: bool,
    ) -> Result<Plugged, ShimError> {
        let slot = self.take()?;
        let serial = format!("disk{slot}");
        let disk = DiskConfig {
            path: Some(path.to_owned()),
            read_only,
            serial: Some(serial.clone()),
            ..DiskConfig::default()
        };
        let plugged = keeper.with(move |machine| machine.guest.plug_disk(slot, &disk));
        match plugged {
            Some(Ok(sectors)) => Ok(Plugged { slot, serial, sectors }),
            failed => {
                self.free(slot);
                match failed {
                    Some(Err(error)) => Err(error.into()),
                    _ => Err(ShimError::sandbox_ended()),
                }
            }
        }
    }

    /// Takes a disk out of its slot. The guest has let go of it.
    pub fn unplug(&self, keeper: &Keeper, slot: u8) -> Result<(), ShimError> {
        match keeper.with(move |machine| machine.guest.unplug_disk(slot)) {
            Some(Err(error)) => Err(error.into()),
            Some(Ok(())) | None => {
                self.free(slot);
                Ok(())
            }
        }
    }

    fn take(&self) -> Result<u8, ShimError> {
        let mut taken = lock(&self.taken);
        for (slot, taken) in (0..).zip(taken.iter_mut()) {
            if !*taken {
                *taken = true;
                return Ok(slot);
            }
        }
        let most = Slots::POD.disks;
        Err(ShimError::WrongState(format!("a sandbox has at most {most} disks at a time")))
    }

    fn free(&self, slot: u8) {
        let mut taken = lock(&self.taken);
        if let Some(taken) = taken.get_mut(usize::from(slot)) {
            *taken = false;
        }
    }
}

/// Takes the block devices out of a `config.json`: their numbers are the host's.
pub fn take_volumes(spec: &mut Spec) -> Vec<Volume> {
    let Some(linux) = spec.linux_mut() else { return Vec::new() };
    let is_disk = |device: &LinuxDevice| device.typ() == LinuxDeviceType::B;
    let devices = linux.devices().clone().unwrap_or_default();
    let (disks, others): (Vec<_>, Vec<_>) = devices.into_iter().partition(is_disk);
    if disks.is_empty() {
        return Vec::new();
    }
    linux.set_devices(Some(others));
    let mut rules = Vec::new();
    if let Some(resources) = linux.resources_mut() {
        rules = resources.devices().clone().unwrap_or_default();
        // A rule for the numbers of a disk of the host would be one for another of the guest.
        let general = rules.iter().filter(|rule| {
            rule.typ() != Some(LinuxDeviceType::B) || rule.major().is_none() || !rule.allow()
        });
        resources.set_devices(Some(general.cloned().collect()));
    }
    let written = |disk: &LinuxDevice| {
        let own = rules.iter().filter(|rule| {
            rule.allow() && rule.major() == Some(disk.major()) && rule.minor() == Some(disk.minor())
        });
        own.filter_map(|rule| rule.access().as_ref()).any(|access| access.contains('w'))
    };
    disks.into_iter().map(|device| Volume { read_only: !written(&device), device }).collect()
}

impl Volume {
    /// Where the host has it.
    pub fn path(&self) -> Result<PathBuf, ShimError> {
        let (major, minor) = (self.device.major(), self.device.minor());
        let about = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/uevent"));
        let text = fs::read_to_string(&about).map_err(file("read", &about))?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        let unnamed = || {
            let device = self.device.path().display();
            ShimError::Usage(format!("{device}: the host has no block device {major}:{minor}"))
        };
        Ok(Path::new("/dev").join(name.ok_or_else(unnamed)?))
    }

    /// Whether the container may not write to it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// What the guest is told of it.
    pub fn device(&self, plugged: &Plugged) -> BlockDevice {
        BlockDevice {
            path: self.device.path().clone(),
            serial: plugged.serial.clone(),
            sectors: Some(plugged.sectors),
            mode: self.device.file_mode().unwrap_or(MODE) & 0o7777,
            uid: self.device.uid().unwrap_or(0),
            gid: self.device.gid().unwrap_or(0),
            read_only: self.read_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn block_devices_are_taken_out_with_their_rules() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "linux": {
                "devices": [
                    {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
                    {"path": "/dev/data", "type": "b", "major": 7, "minor": 5, "fileMode": 0o60640},
                ],
                "resources": {"devices": [
                    {"allow": false, "access": "rwm"},
                    {"allow": true, "type": "b", "major": 7, "minor": 5, "access": "rm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                ]},
            },
        }))
        .unwrap();
        let volumes = take_volumes(&mut spec);
        assert_eq!(volumes.len(), 1);
        assert!(volumes[0].read_only());
        let plugged = Plugged { slot: 2, serial: "disk2".into(), sectors: 8 };
        let device = volumes[0].device(&plugged);
        assert_eq!((device.path, device.mode), ("/dev/data".into(), 0o640));
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.devices().as_ref().unwrap().len(), 1);
        let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
        assert_eq!(rules.len(), 2);
    }

    #[test]
    fn slots_are_given_out_once_and_again_when_they_are_free() {
        let disks = Disks::default();
        let all: Vec<_> = std::iter::from_fn(|| disks.take().ok()).collect();
        assert_eq!(all, (0..Slots::POD.disks).collect::<Vec<_>>());
        disks.free(3);
        assert_eq!(disks.take().unwrap(), 3);
        assert!(disks.take().is_err());
    }
}
