//! What directories take of the host's storage.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Deepest directories that are counted.
const DEEPEST: usize = 64;

/// Bytes of the host's storage that a directory takes; what cannot be looked at counts nothing.
pub fn occupied(folder: &Path) -> u64 {
    below(folder, 0)
}

fn below(folder: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < DEEPEST => below(&entry.path(), depth + 1),
        Ok(metadata) => metadata.blocks().saturating_mul(512),
        Err(_) => 0,
    });
    bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_take_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a");
        fs::create_dir(&below).unwrap();
        fs::File::create(below.join("hole")).unwrap().set_len(1 << 30).unwrap();
        assert!(occupied(dir.path()) < 1 << 20);
        fs::write(below.join("full"), vec![7; 1 << 20]).unwrap();
        assert!((1 << 20..2 << 20).contains(&occupied(dir.path())));
    }
}
