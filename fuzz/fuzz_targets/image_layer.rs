//! Layers of an image, flattened into one file system: the first byte says how many thousandths of the
//! rest are the lower layer. The checksums of their headers are put right.
#![no_main]

use std::fs::File;

use ampoule::image::Digest;
use ampoule::image::digest::HashReader;
use ampoule::image::erofs::DataWriter;
use ampoule::image::layer::{Layer, LayerError};
use ampoule::image::limits::{Budget, Limits};
use ampoule::image::tar_stream::TarStream;
use ampoule::image::tree::Tree;
use ampoule_fuzz::host::MemoryFile;
use libfuzzer_sys::fuzz_target;

fn flatten(layers: [&mut [u8]; 2]) -> Result<File, LayerError> {
    let limits = Limits { image_bytes: 1 << 30, steps: 1 << 20, ..Limits::default() };
    let mut budget = Budget::new(limits, std::path::Path::new("/dev/shm"));
    let image = MemoryFile::new(&[]).file;
    let again = image.try_clone().expect("a descriptor");
    let mut data = DataWriter::new(image, MemoryFile::new(&[]).file)?;
    let mut tree = Tree::default();
    for layer in layers {
        ampoule_fuzz::tar::correct(layer);
        let mut stream = TarStream::new(HashReader::counting(&*layer));
        Layer::new(&mut tree, &mut data, &mut budget).apply(&mut stream)?;
    }
    data.finish(&tree, Digest::of(b"").uuid(), &mut budget)?;
    Ok(again)
}

fuzz_target!(|input: &[u8]| {
    let Some((share, layers)) = input.split_first() else { return };
    let mut layers = layers.to_vec();
    // In whole blocks, as a layer's entries are.
    let lower = layers.len() * usize::from(*share) / 256 / 512 * 512;
    let (lower, upper) = layers.split_at_mut(lower);
    if let Ok(image) = flatten([lower, upper]) {
        let len = image.metadata().expect("a file").len();
        assert!(len > 0 && len.is_multiple_of(4096));
    }
});
