//! The limits of `ampoule-oci update --resources`, over those of a container: the first two bytes are
//! the length of its `config.json`, which comes first.
#![no_main]

use ampoule_fuzz::host::MemoryFile;
use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let len = usize::from(input.arbitrary::<u16>().unwrap_or_default()).min(input.len());
    let before = MemoryFile::new(input.bytes(len).unwrap_or_default());
    let asked = MemoryFile::new(input.take_rest());
    let path = asked.path();
    let _ = ampoule::oci::fuzzing::resources(path.to_str().expect("a plain path"), &before.path());
});
