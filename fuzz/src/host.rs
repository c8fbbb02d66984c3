//! Files in memory, and folders.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tempfile::TempDir;

/// A file that is in memory alone, under a path of this process.
pub struct MemoryFile {
    /// The file.
    pub file: File,
}

impl MemoryFile {
    /// With these contents.
    pub fn new(contents: &[u8]) -> Self {
        let mut file = File::from(memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
        file.write_all(contents).expect("room in memory");
        io::Seek::rewind(&mut file).expect("a file");
        Self { file }
    }

    /// Where it can be opened.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// A folder in memory, where the host has such a place.
pub fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}

/// The inputs of one kind that an input begins with the number of; the number and the rest.
pub fn choose(input: &[u8], kinds: u8) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (first % kinds, rest))
}

/// A closed socket is an error, as in the programs, and no signal.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
