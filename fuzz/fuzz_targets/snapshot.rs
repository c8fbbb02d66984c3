//! A snapshot's state: the input is what its checksum covers, or, where the first byte is odd, the
//! whole file.
#![no_main]

use ampoule::vmm::memory::allocate;
use ampoule::vmm::snapshot::state::Plugs;
use ampoule::vmm::snapshot::touched::{Pages, Touched};
use ampoule::vmm::snapshot::{Snapshot, format};
use ampoule_fuzz::host::{MemoryFile, choose};
use libfuzzer_sys::fuzz_target;

/// MiB of the guest that the seeds are of.
const MIB: u32 = 16;

/// With a header that is right for it.
fn sealed(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut checked = vec![0; 16];
    checked.extend((body.len() as u64).to_le_bytes());
    checked.extend(body);
    let checksum = crc32fast::hash(&checked).to_le_bytes();
    [magic, format::VERSION.to_le_bytes().as_slice(), &checksum, &checked].concat()
}

fn state(bytes: &[u8]) {
    let memory = MemoryFile::new(&[0x77; 8192]).file;
    memory.set_len(u64::from(MIB) << 20).expect("a sparse file");
    let Ok(snapshot) = Snapshot::read(&MemoryFile::new(bytes).file, memory) else { return };
    let _ = snapshot.verify_memory();
    if let Ok(config) = snapshot.state.with(Plugs::default())
        && config.memory_mib == MIB
    {
        drop(snapshot.state.memory.map(MIB, &snapshot.memory));
    }
    let again = format::encode(&snapshot.state).expect("what was decoded");
    format::decode(&again).expect("what was encoded");
}

fn touched(bytes: &[u8]) {
    let len = u64::from(MIB) << 20;
    let Ok(touched) = Touched::read(&MemoryFile::new(bytes).file, len) else { return };
    let memory = allocate(MIB).expect("memory");
    let pages = Pages::Known(touched);
    pages.prepare(&memory);
    assert!(pages.places(&memory).iter().all(|(at, size)| at + size <= len));
}

fuzz_target!(|input: &[u8]| {
    match choose(input, 4) {
        (0, body) => state(&sealed(b"AMPOULES", body)),
        (1, file) => state(file),
        (2, body) => touched(&sealed(b"AMPOULET", body)),
        (_, file) => touched(file),
    }
});
