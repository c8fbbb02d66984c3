//! What a container has changed of its root file system.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};

use ampoule_protocol::archive::MOUNT_POINTS;

use super::ArchiveError;
use crate::image::limits::{Budget, PATH_BYTES};
use crate::image::tree::clean;

/// What has become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was added.
    Added,
    /// It is another.
    Changed,
    /// It is no more.
    Deleted,
}

impl Change {
    /// docker's letter.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Takes what an agent tells: changes by path, in order. The directory of what was added or deleted is changed.
pub fn take(
    from: &mut dyn Read,
    budget: &mut Budget,
) -> Result<BTreeMap<Vec<u8>, Change>, ArchiveError> {
    let mut from = BufReader::new(from);
    let mut changes = BTreeMap::new();
    let mut parents = BTreeSet::new();
    loop {
        let mut record = Vec::new();
        let limit = PATH_BYTES as u64 + 2;
        let read = (&mut from).take(limit).read_until(0, &mut record);
        if read.map_err(ArchiveError::io("read from the guest's agent"))? == 0 {
            break;
        }
        budget.entry()?;
        budget.metadata(record.len() + 64)?;
        let Some((letter, path)) = record.split_first() else { return Err(ArchiveError::Changes) };
        let path = path.strip_suffix(b"\0").ok_or(ArchiveError::Changes)?;
        let change = match letter {
            b'A' => Change::Added,
            b'C' => Change::Changed,
            b'D' => Change::Deleted,
            _ => return Err(ArchiveError::Changes),
        };
        let parts = clean(path).map_err(|_| ArchiveError::Changes)?;
        let (name, parent) = parts.split_last().ok_or(ArchiveError::Changes)?;
        let parent = parent.iter().flat_map(|part| [b"/", *part].concat()).collect::<Vec<_>>();
        let path = [&parent, &b"/"[..], name].concat();
        // docker does not tell of them either.
        if MOUNT_POINTS.iter().any(|point| point.as_bytes() == path) {
            continue;
        }
        if change != Change::Changed && !parent.is_empty() {
            parents.insert(parent);
        }
        changes.insert(path, change);
    }
    for parent in parents {
        changes.entry(parent).or_insert(Change::Changed);
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::limits::Limits;
    use proptest::prelude::*;
    use std::path::Path;

    fn told(bytes: &[u8]) -> Result<Vec<String>, ArchiveError> {
        let mut budget = Budget::new(Limits::default(), Path::new("/"));
        let changes = take(&mut { bytes }, &mut budget)?;
        let line = |(path, change): (Vec<u8>, Change)| {
            format!("{} {}", change.letter(), String::from_utf8_lossy(&path))
        };
        Ok(changes.into_iter().map(line).collect())
    }

    #[test]
    fn changes_are_in_order_with_the_directories_that_they_are_in() {
        let records = b"Aetc/x\0Dtop\0Cb/c\0Aetc/hosts\0Ab\0Da/b/c\0";
        let expected = ["C /a/b", "D /a/b/c", "A /b", "C /b/c", "C /etc", "A /etc/x", "D /top"];
        assert_eq!(told(records).unwrap(), expected);
        assert!(told(b"").unwrap().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        let long = [b"A", "x".repeat(5000).as_bytes(), b"\0"].concat();
        for bytes in [&b"X/a\0"[..], b"Aa", b"\0", b"A\0", b"A..\0", b"A../../etc\0", &long] {
            assert!(told(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            let _ = told(&bytes);
        }
    }
}
