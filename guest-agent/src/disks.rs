//! The guest's disks, by the serial numbers that the host gave them.
//!
//! Reading a serial number asks the disk itself, so all are read once and remembered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Doing, Error, Result};

/// Longest virtio serial number, in bytes.
const MAX_SERIAL: usize = 20;

/// Where the kernel lists them.
const BLOCK: &str = "/sys/block";

/// The disks that were found so far: device nodes by serial number.
#[derive(Debug)]
pub struct Disks(Mutex<BTreeMap<Vec<u8>, PathBuf>>);

impl Disks {
    /// None is looked for yet.
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every disk for its serial number.
    pub fn look_up(&self) -> Result<()> {
        *self.lock() = list(Path::new(BLOCK))?;
        Ok(())
    }

    /// The device node of a disk. The disks are there before the agent is: their driver is built
    /// in.
    ///
    /// # Errors
    /// No disk has that serial number.
    pub fn find(&self, serial: &str) -> Result<PathBuf> {
        if serial.is_empty() || serial.len() > MAX_SERIAL {
            return Err(Error::Invalid(format!("disk serial number {serial:?}")));
        }
        if let Some(node) = self.lock().get(serial.as_bytes()) {
            return Ok(node.clone());
        }
        self.look_up()?;
        let found = self.lock().get(serial.as_bytes()).cloned();
        found.ok_or_else(|| Error::Invalid(format!("no disk has the serial number {serial:?}")))
    }
}

fn list(block: &Path) -> Result<BTreeMap<Vec<u8>, PathBuf>> {
    let mut found = BTreeMap::new();
    let disks = fs::read_dir(block).doing(|| format!("list {}", block.display()))?;
    for disk in disks.flatten() {
        // A disk without a serial number has no such file, or says nothing in it.
        let serial = fs::read(disk.path().join("serial")).unwrap_or_default();
        let serial = serial.trim_ascii_end();
        if !serial.is_empty() {
            found.insert(serial.to_vec(), Path::new("/dev").join(disk.file_name()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_found_by_their_serial_numbers() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", Some("image\n")), ("vdb", Some("\n")), ("ram0", None)] {
            fs::create_dir(block.path().join(name)).unwrap();
            if let Some(serial) = serial {
                fs::write(block.path().join(name).join("serial"), serial).unwrap();
            }
        }
        let found = list(block.path()).unwrap();
        assert_eq!(found, BTreeMap::from([(b"image".to_vec(), PathBuf::from("/dev/vda"))]));
    }

    #[test]
    fn serial_numbers_have_a_length() {
        let disks = Disks::new();
        assert!(matches!(disks.find(""), Err(Error::Invalid(_))));
        assert!(matches!(disks.find(&"x".repeat(21)), Err(Error::Invalid(_))));
    }
}
