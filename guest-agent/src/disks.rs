//! The guest's disks, by the serial numbers that the host gave them.
//!
//! Reading a serial number asks the disk itself, so all are read once and remembered. Disks that are
//! plugged in while the guest runs come with their length, and are looked for anew each time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Doing, Error, Result};

/// Longest virtio serial number, in bytes.
const MAX_SERIAL: usize = 20;

/// How long the kernel may take to read the length of a disk that was plugged in.
const LENGTH_TIME: Duration = Duration::from_secs(10);

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
    /// in. One that was plugged in since is of so many sectors.
    ///
    /// # Errors
    /// No disk has that serial number, or it is not of that length.
    pub fn find(&self, serial: &str, sectors: Option<u64>) -> Result<PathBuf> {
        if serial.is_empty() || serial.len() > MAX_SERIAL {
            return Err(Error::Invalid(format!("disk serial number {serial:?}")));
        }
        let known = self.lock().get(serial.as_bytes()).cloned();
        if let (Some(node), None) = (known, sectors) {
            return Ok(node);
        }
        self.look_up()?;
        let found = self.lock().get(serial.as_bytes()).cloned();
        let node = found
            .ok_or_else(|| Error::Invalid(format!("no disk has the serial number {serial:?}")))?;
        if let Some(sectors) = sectors {
            await_length(Path::new(BLOCK), &node, sectors)?;
        }
        Ok(node)
    }
}

/// Waits until the kernel has taken in how long a disk is. The device has told it before the host asked
/// for anything, and a worker of the kernel reads it a moment later; of a disk that was empty, it tells
/// nobody when it has.
fn await_length(block: &Path, node: &Path, sectors: u64) -> Result<()> {
    let size = block.join(node.file_name().unwrap_or_default()).join("size");
    let until = Instant::now() + LENGTH_TIME;
    loop {
        let text = fs::read_to_string(&size).doing(|| format!("read {}", size.display()))?;
        if text.trim().parse() == Ok(sectors) {
            return Ok(());
        }
        if Instant::now() >= until {
            let (node, found) = (node.display(), text.trim());
            return Err(Error::Invalid(format!("{node} has {found} sectors, not {sectors}")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Has everything that was written to a disk reach it.
///
/// # Errors
/// Somebody still has it mounted.
pub fn flush(node: &Path) -> Result<()> {
    // O_EXCL: of a disk, not while it is mounted.
    let file = File::options().read(true).custom_flags(libc::O_EXCL).open(node);
    file.and_then(|file| file.sync_all()).doing(|| format!("flush {}", node.display()))
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
        assert!(matches!(disks.find("", None), Err(Error::Invalid(_))));
        assert!(matches!(disks.find(&"x".repeat(21), Some(1)), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_disk_is_waited_for_until_it_has_its_length() {
        let block = tempfile::tempdir().unwrap();
        let (disk, node) = (block.path().join("vdb"), Path::new("/dev/vdb"));
        fs::create_dir(&disk).unwrap();
        fs::write(disk.join("size"), "0\n").unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| await_length(block.path(), node, 8));
            fs::write(disk.join("new"), "8\n").unwrap();
            fs::rename(disk.join("new"), disk.join("size")).unwrap();
            waits.join().unwrap().unwrap();
        });
        assert!(await_length(block.path(), Path::new("/dev/vdc"), 8).is_err());
    }
}
