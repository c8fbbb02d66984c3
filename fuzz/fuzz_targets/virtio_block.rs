//! A guest's disk of 64.5 KiB. The other side makes its file smaller or larger: four bytes, the size.
#![no_main]

use ampoule::vmm::config::DiskConfig;
use ampoule::vmm::devices::virtio::block::Block;
use ampoule::vmm::devices::virtio::mmio::SharedDevice;
use ampoule_fuzz::guest::{self, Host};
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 0x1_0200;

struct Disk {
    file: MemoryFile,
    read_only: bool,
}

impl Host for Disk {
    fn device(&mut self) -> SharedDevice {
        self.file.file.set_len(SIZE).expect("room in memory");
        let config = DiskConfig {
            path: Some(self.file.path()),
            read_only: self.read_only,
            serial: Some("disk".into()),
        };
        guest::shared(Block::new(&config).expect("a disk"))
    }

    fn act(&mut self, bytes: &[u8]) {
        if let Some(size) = bytes.first_chunk() {
            let size = u64::from(u32::from_le_bytes(*size)).min(2 * SIZE);
            self.file.file.set_len(size).expect("room in memory");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (read_only, program) = ampoule_fuzz::host::choose(input, 2);
    let file = MemoryFile::new(b"contents");
    guest::run(program, &mut Disk { file, read_only: read_only == 1 });
});
