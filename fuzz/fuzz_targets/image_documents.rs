//! The JSON documents of an image: the input's parts (each behind its length, u16) are index, manifest,
//! configuration and layers. `@N` in one stands for the digest of part N and `#N` for its size, so that
//! changed documents still belong together.
#![no_main]

use std::path::Path;

use ampoule::image::{Digest, Store};
use ampoule::sandbox::{Options, spec};
use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

/// Most parts of an input.
const PARTS: usize = 6;

/// The parts, the last one first as others name it: each with the digests it asks for.
fn parts(input: &[u8]) -> Vec<Vec<u8>> {
    let mut input = Unstructured::new(input);
    let mut parts = Vec::new();
    while !input.is_empty() && parts.len() < PARTS {
        let len = usize::from(input.arbitrary::<u16>().unwrap_or_default()).min(input.len());
        parts.push(input.bytes(len).unwrap_or_default().to_vec());
    }
    for at in (0..parts.len()).rev() {
        let mut text = Vec::new();
        let mut bytes = parts[at].iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let named = bytes.peek().map(|digit| usize::from(digit.wrapping_sub(b'0')));
            // Only those behind: none is part of its own digest.
            match named.filter(|n| *n > at && *n < parts.len()) {
                Some(n) if byte == b'@' => text.extend(Digest::of(&parts[n]).to_string().bytes()),
                Some(n) if byte == b'#' => text.extend(parts[n].len().to_string().bytes()),
                _ => {
                    text.push(byte);
                    continue;
                }
            }
            bytes.next();
        }
        parts[at] = text;
    }
    parts
}

fn write(folder: &Path, parts: &[Vec<u8>]) -> std::io::Result<()> {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    for (number, part) in parts.iter().enumerate() {
        std::fs::write(blobs.join(Digest::of(part).hex()), part)?;
        // The classic layout has names of its own.
        std::fs::write(folder.join(number.to_string()), part)?;
    }
    let index = parts.first().map_or(&[][..], Vec::as_slice);
    // The classic layout where it is a list.
    let name = if index.first() == Some(&b'[') { "manifest.json" } else { "index.json" };
    std::fs::write(folder.join(name), index)
}

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let folder = ampoule_fuzz::host::folder();
    let archive = folder.path().join("archive");
    write(&archive, &parts).expect("room for a few files");
    let store = Store::open(&folder.path().join("store")).expect("a store");
    let Ok(loaded) = store.load_path(&archive, &mut |_| {}) else { return };
    for image in loaded {
        let image = store.get(&image.id.to_string()).expect("an image that was loaded");
        let _ = spec::container(&image.id.hex(), &image.config, &Options::default());
    }
});
