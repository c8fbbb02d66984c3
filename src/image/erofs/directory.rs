//! Directories: blocks of entries sorted by name, each block its entries first and then their
//! names (`erofs_dirent`).

use super::BLOCK;
use super::format::FileType;

/// Size of an entry without its name, in bytes.
const ENTRY_BYTES: usize = 12;

/// How the names of a directory fill its blocks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Packing {
    blocks: u64,
    used: usize,
}

impl Packing {
    /// Takes the next name; `true` if it starts a block.
    pub fn push(&mut self, name: &[u8]) -> bool {
        let bytes = ENTRY_BYTES + name.len();
        let starts = self.blocks == 0 || (self.used + bytes) as u64 > BLOCK;
        if starts {
            self.blocks += 1;
            self.used = 0;
        }
        self.used += bytes;
        starts
    }

    /// Size of the directory in bytes: all blocks but the last are whole.
    pub fn size(&self) -> u64 {
        self.blocks.saturating_sub(1) * BLOCK + self.used as u64
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub nid: u64,
    pub kind: FileType,
}

/// The data of a directory of `entries`, which are sorted by name and hold `.` and `..`.
pub fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut packing = Packing::default();
    let mut data = Vec::new();
    let mut block: Vec<Entry<'_>> = Vec::new();
    for entry in entries {
        if packing.push(entry.name) {
            flush(&mut block, &mut data);
        }
        block.push(*entry);
    }
    flush(&mut block, &mut data);
    data
}

/// Ends the block before with zeroes and appends `block`.
fn flush(block: &mut Vec<Entry<'_>>, data: &mut Vec<u8>) {
    if block.is_empty() {
        return;
    }
    let whole = data.len().next_multiple_of(4096);
    data.resize(whole, 0);
    let mut name_offset = block.len() * ENTRY_BYTES;
    for entry in &*block {
        data.extend(entry.nid.to_le_bytes());
        // Below 4096: the packing ends blocks there.
        data.extend(u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        data.extend([entry.kind.entry(), 0]);
        name_offset += entry.name.len();
    }
    for entry in block.drain(..) {
        data.extend(entry.name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_size_is_known_before_the_data_are(
            names in proptest::collection::btree_set("[a-z]{1,255}", 0..200)
        ) {
            let mut packing = Packing::default();
            let kind = FileType::File;
            let entries: Vec<_> =
                names.iter().map(|name| Entry { name: name.as_bytes(), nid: 1, kind }).collect();
            for name in &names {
                packing.push(name.as_bytes());
            }
            prop_assert_eq!(encode(&entries).len() as u64, packing.size());
        }
    }
}
