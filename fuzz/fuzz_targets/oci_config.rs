//! A bundle's `config.json`.
#![no_main]

use std::path::Path;

use ampoule::oci::fuzzing;
use ampoule::vmm::config::MAX_VCPUS;
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|config: &[u8]| {
    let file = MemoryFile::new(config);
    if let Ok(made) = fuzzing::config(&file.path(), Path::new("/bundle")) {
        assert!((1..=MAX_VCPUS).contains(&made.shape.vcpus));
        assert!(made.processors.len() <= 4096);
        serde_json::to_vec(&made.spec).expect("what the agent is sent");
    }
});
