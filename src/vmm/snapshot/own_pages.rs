//! What the host's kernel tells of this process's own memory (proc(5)): two files, opened before nothing
//! can be opened any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a read of the list of mappings: the kernel gives out a page at a time.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct OwnPages {
    pagemap: File,
    maps: File,
}

impl OwnPages {
    /// Opens both.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            pagemap: File::open("/proc/self/pagemap")?,
            maps: File::open("/proc/self/maps")?,
        })
    }

    /// Reads entries of /proc/self/pagemap: eight bytes for each page from this one on.
    pub fn entries(&self, first: u64, entries: &mut [u8]) -> io::Result<()> {
        self.pagemap.read_exact_at(entries, first * 8)
    }

    /// /proc/self/maps as it is now.
    pub fn maps(&self) -> io::Result<String> {
        let mut text = Vec::new();
        loop {
            let have = text.len();
            text.resize(have + CHUNK, 0);
            let read = self.maps.read_at(&mut text[have..], have as u64)?;
            text.truncate(have + read);
            if read == 0 {
                return String::from_utf8(text).map_err(io::Error::other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_own_mappings_are_told_as_often_as_they_are_asked_for() {
        let own = OwnPages::open().unwrap();
        for _ in 0..2 {
            let maps = own.maps().unwrap();
            assert!(maps.ends_with('\n') && maps.contains("[stack]"), "{maps}");
        }
        let page = [1u8; 4096];
        let mut entry = [0; 8];
        own.entries(page.as_ptr() as u64 / 4096, &mut entry).unwrap();
        assert_ne!(u64::from_le_bytes(entry) & 1 << 63, 0);
    }
}
