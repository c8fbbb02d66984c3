//! An image archive as `ampoule load` gets it, from a stream or a file; the first byte says which, and
//! whether the checksums of its headers are put right.
#![no_main]

use ampoule::image::Store;
use ampoule::image::limits::Limits;
use ampoule_fuzz::host::{MemoryFile, choose, folder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (kind, archive) = choose(input, 4);
    let mut archive = archive.to_vec();
    if kind & 2 == 0 {
        ampoule_fuzz::tar::correct(&mut archive);
    }
    let folder = folder();
    // What an input of these few bytes may need; a decompressor makes more of them.
    let limits = Limits { unpacked_bytes: 64 << 20, image_bytes: 1 << 30, ..Limits::default() };
    let store = Store::open(folder.path()).expect("a store").with_limits(limits);
    let loaded = if kind & 1 == 0 {
        store.load(archive.as_slice(), &mut |_| {})
    } else {
        store.load_path(&MemoryFile::new(&archive).path(), &mut |_| {})
    };
    if let Ok(loaded) = loaded {
        let listed = store.list().expect("a store that can be listed");
        assert!(loaded.iter().all(|image| listed.iter().any(|found| found.id == image.id)));
    }
});
