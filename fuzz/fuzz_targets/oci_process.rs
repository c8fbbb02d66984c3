//! The process of `ampoule-oci exec --process`.
#![no_main]

use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|process: &[u8]| {
    if let Ok(process) = ampoule::oci::fuzzing::process(&MemoryFile::new(process).path()) {
        serde_json::to_vec(&process).expect("what the agent is sent");
    }
});
