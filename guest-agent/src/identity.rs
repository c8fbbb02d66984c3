//! What containers take for the identity of their machine and its boot: files of the agent's own
//! that are bound over the kernel's boot id and the image's machine id.
//!
//! The kernel makes its own boot id when it is first read and never again, so that guests of one
//! snapshot would share it. Containers see these files instead, and so do those that run already
//! when the files change.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::error::{Doing, Error, Result};
use crate::random;

/// Where they are: a mount of its own and read-only, as binds of it become.
const DIRECTORY: &str = "/run/ampoule-identity";

/// The boot id's file.
pub const BOOT_ID: &str = "/run/ampoule-identity/boot_id";

/// The machine id's file.
pub const MACHINE_ID: &str = "/run/ampoule-identity/machine_id";

const NONE: Option<&str> = None;

/// A UUID in lower case: 8-4-4-4-12 digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// # Errors
    /// Not of that form.
    pub fn parse(text: &str) -> Result<Self> {
        const DASHES: [usize; 4] = [8, 13, 18, 23];
        let fits = |(n, c): (usize, char)| match DASHES.contains(&n) {
            true => c == '-',
            false => c.is_ascii_hexdigit(),
        };
        if text.len() == 36 && text.char_indices().all(fits) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(Error::Invalid(format!("boot id {text:?}")))
    }

    /// A random one (RFC 9562, section 5.4).
    fn random() -> Result<Self> {
        let number = u128::from_be_bytes(random::bytes()?);
        let number = number & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let digits = format!("{number:032x}");
        let parts: Vec<&str> = [0..8, 8..12, 12..16, 16..20, 20..32]
            .into_iter()
            .filter_map(|part| digits.get(part))
            .collect();
        Ok(Self(parts.join("-")))
    }
}

/// 32 hexadecimal digits in lower case: see machine-id(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineId(String);

impl MachineId {
    /// # Errors
    /// Not of that form, or all zero.
    pub fn parse(text: &str) -> Result<Self> {
        let valid = text.len() == 32
            && text.bytes().all(|c| c.is_ascii_hexdigit())
            && text.bytes().any(|c| c != b'0');
        if valid {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(Error::Invalid(format!("machine id {text:?}")))
    }

    fn random() -> Result<Self> {
        Ok(Self(format!("{:032x}", u128::from_be_bytes(random::bytes()?))))
    }
}

/// The open files: below [`DIRECTORY`] they are read-only for everybody.
#[derive(Debug)]
pub struct Identity {
    boot_id: File,
    machine_id: File,
}

impl Identity {
    /// A random one, that no other guest has but those of its own snapshot.
    pub fn new() -> Result<Self> {
        fs::create_dir(DIRECTORY).doing(|| format!("make {DIRECTORY}"))?;
        let identity = Self { boot_id: make(BOOT_ID)?, machine_id: make(MACHINE_ID)? };
        identity.change(&BootId::random()?, &MachineId::random()?)?;
        let action = || format!("make {DIRECTORY} a mount of its own");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(DIRECTORY), DIRECTORY, NONE, MsFlags::MS_BIND, NONE).doing(action)?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
        mount(NONE, DIRECTORY, NONE, read_only, NONE).doing(action)?;
        Ok(identity)
    }

    /// Another one, also for containers that run. Each text is as long as the one before: no
    /// reader ever finds the file shorter.
    pub fn change(&self, boot_id: &BootId, machine_id: &MachineId) -> Result<()> {
        write(&self.boot_id, &boot_id.0).doing(|| format!("write {BOOT_ID}"))?;
        write(&self.machine_id, &machine_id.0).doing(|| format!("write {MACHINE_ID}"))
    }
}

fn make(path: &str) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(Path::new(path))
        .doing(|| format!("make {path}"))
}

fn write(file: &File, text: &str) -> std::io::Result<()> {
    file.write_all_at(format!("{text}\n").as_bytes(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_identities_have_their_form_and_differ() {
        let (one, other) = (BootId::random().unwrap(), BootId::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(BootId::parse(&one.0).unwrap(), one);
        assert_eq!(one.0.as_bytes()[14], b'4');
        assert!(matches!(one.0.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        let machine = MachineId::random().unwrap();
        assert_eq!(MachineId::parse(&machine.0).unwrap(), machine);
    }

    proptest! {
        #[test]
        fn boot_ids_are_uuids(text in "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}") {
            prop_assert_eq!(BootId::parse(&text).unwrap().0, text.to_lowercase());
            prop_assert!(BootId::parse(&text[1..]).is_err());
        }

        #[test]
        fn nothing_else_is_a_boot_id(text in "[0-9a-f-]{36}") {
            let dashes: Vec<usize> = text.match_indices('-').map(|(n, _)| n).collect();
            prop_assert_eq!(BootId::parse(&text).is_ok(), dashes == [8, 13, 18, 23]);
        }

        #[test]
        fn any_text_is_a_machine_id_or_refused(text in ".{0,40}") {
            let plain = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
            prop_assert_eq!(MachineId::parse(&text).is_ok(), plain && text != "0".repeat(32));
        }
    }
}
