//! What ampoule has written down and reads again: the first byte says which file this is.
#![no_main]

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use ampoule::image::Store;
use ampoule::sandbox::template::Templates;
use ampoule::sandbox::{State, log};
use ampoule_fuzz::host::{choose, folder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (kind, bytes) = choose(input, 5);
    let folder = folder();
    let place = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("room for a file");
        path
    };
    match kind {
        0 => {
            if let Ok(state) = State::read(&place("aaaaaaaaaaaa/state.json")) {
                assert!(state.keeper > 1 && state.short_id() == "aaaaaaaaaaaa");
            }
        }
        1 => drop(ampoule::oci::fuzzing::record(bytes)),
        2 => {
            drop(Store::open(folder.path()));
            place("references.json");
            let _ = Store::open(folder.path()).map(|store| store.list().map(drop));
        }
        3 => {
            let mut log = Cursor::new(bytes);
            while let Ok(Some(_)) = log::read_entry(&mut log) {}
        }
        _ => {
            place("0123456789abcdef/template.json");
            let _ = Templates::new(folder.path().to_owned()).list();
        }
    }
});
