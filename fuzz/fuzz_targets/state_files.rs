//! What ampoule has written down and reads again: the first byte says which file this is.
#![no_main]

use std::fs;
use std::path::PathBuf;

use ampoule::image::Store;
use ampoule::sandbox::template::Templates;
use ampoule::sandbox::log::Reader;
use ampoule::sandbox::{Record, State, health};
use ampoule_fuzz::host::{choose, folder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (kind, bytes) = choose(input, 7);
    let folder = folder();
    let place = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("room for a file");
        path
    };
    match kind {
        0 => {
            let id = "a".repeat(64);
            if let Ok(state) = State::read(&place(&format!("{id}/state.json"))) {
                assert!(state.keeper.is_none_or(|pid| pid > 1) && state.id == id);
            }
        }
        1 => drop(ampoule::oci::fuzzing::record(bytes)),
        2 => {
            drop(Store::open(folder.path()));
            place("references.json");
            let _ = Store::open(folder.path()).map(|store| store.list().map(drop));
        }
        3 => {
            let mut log = Reader::open(&place("log.json")).expect("the log");
            while let Ok(Some(_)) = log.read() {}
        }
        5 => {
            let id = "a".repeat(64);
            place(&format!("{id}/config.json"));
            if let Ok(record) = Record::read(&folder.path().join(&id)) {
                assert_eq!(record.id, id);
            }
        }
        6 => {
            let path = place("health.json");
            drop(health::read(path.parent().expect("a folder")));
        }
        _ => {
            place("0123456789abcdef/template.json");
            let _ = Templates::new(folder.path().to_owned()).list();
        }
    }
});
