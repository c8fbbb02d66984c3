//! A guest's disk of 64.5 KiB. The other side makes its file smaller or larger: four bytes, the size.
//! What is behind the disk's end must stay as it is, and all of it where it is read-only.
#![no_main]

use std::io::{Read, Seek};

use ampoule::vmm::config::DiskConfig;
use ampoule::vmm::devices::virtio::block::Block;
use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule_fuzz::guest::{self, Host};
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 0x1_0200;
const CONTENTS: &[u8] = b"contents";

struct Disk {
    file: MemoryFile,
    read_only: bool,
    /// The least size that the file has had.
    least: u64,
}

impl Host for Disk {
    fn device(&mut self) -> SharedDevice {
        self.file.file.set_len(SIZE).expect("room in memory");
        let config = DiskConfig {
            path: Some(self.file.path()),
            read_only: self.read_only,
            serial: Some("disk".into()),
            ..DiskConfig::default()
        };
        guest::shared(Block::new(&config).expect("a disk"))
    }

    fn act(&mut self, bytes: &[u8]) {
        if let Some(size) = bytes.first_chunk() {
            let size = u64::from(u32::from_le_bytes(*size)).min(2 * SIZE);
            self.file.file.set_len(size).expect("room in memory");
            self.least = self.least.min(size);
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (read_only, program) = ampoule_fuzz::host::choose(input, 2);
    let file = MemoryFile::new(CONTENTS);
    let mut disk = Disk { file, read_only: read_only == 1, least: SIZE };
    guest::run(program, &mut disk);
    let mut bytes = Vec::new();
    let mut file = &disk.file.file;
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a file");
    let (inside, behind) = bytes.split_at(bytes.len().min(SIZE as usize));
    assert!(behind.iter().all(|byte| *byte == 0));
    if disk.read_only {
        let left = usize::try_from(disk.least).unwrap_or_default().min(CONTENTS.len());
        let (contents, zeroes) = inside.split_at(left.min(inside.len()));
        assert!(CONTENTS.starts_with(contents) && zeroes.iter().all(|byte| *byte == 0));
    }
});
