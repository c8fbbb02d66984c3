//! A bundle's `config.json`.
#![no_main]

use std::path::Path;

use ampoule::oci::fuzzing;
use ampoule::vmm::config::{MAX_MEMORY_MIB, MAX_VCPUS};
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|config: &[u8]| {
    let file = MemoryFile::new(config);
    if let Ok(made) = fuzzing::config(&file.path(), Path::new("/bundle")) {
        assert!((1..=MAX_VCPUS).contains(&made.shape.vcpus));
        let _ = MAX_MEMORY_MIB;
        serde_json::to_vec(&made.spec).expect("what the agent is sent");
    }
});
