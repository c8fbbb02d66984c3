//! A store of its own for each test, and archives to load into it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ampoule::image::Store;
use tempfile::TempDir;

use crate::support::{Ampoule, Finished};

/// A folder with a store, and whatever else the test puts there.
pub struct Lab {
    pub ampoule: Ampoule,
    folder: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Self { ampoule: Ampoule::with_root(folder.path().join("store")), folder }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as a text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The store as the library opens it.
    pub fn store(&self) -> Store {
        Store::open(&self.path("store")).unwrap()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// Makes an archive of layers with `rootfs/pack-archive`.
    pub fn pack(&self, output: &str, options: &[&str], layers: &[&str]) -> String {
        let output = self.text(output);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("rootfs/pack-archive");
        let mut pack = Command::new("python3");
        pack.arg(script).args(["--output", &output]).args(options).args(layers);
        run(&mut pack);
        output
    }

    /// An archive of one small image with this name.
    pub fn small(&self, name: &str) -> String {
        let layer = self.file("small-layer.tar", &layer(&[("etc/name", name.as_bytes())]));
        self.pack("small.tar", &["--name", name], &[&layer])
    }

    pub fn load(&self, archive: &str) -> Finished {
        self.ampoule.output(&["load", "-i", archive])
    }

    /// Everything in the store, but for the lock that any command makes.
    pub fn stored(&self) -> BTreeSet<PathBuf> {
        let mut found = listing(&self.path("store"));
        found.remove(&self.path("store/lock"));
        found
    }

    /// Loads what must be refused: sees that the words are there and the store is as before.
    #[track_caller]
    pub fn refuses(&self, archive: &str, words: &[&str]) {
        // Its folders are there from the first command on.
        self.ampoule.ok(&["image", "ls"]);
        let before = self.stored();
        self.load(archive).fails(125, words);
        assert_eq!(self.stored(), before);
    }

    /// Folders of loads that are not done.
    pub fn staging(&self) -> usize {
        fs::read_dir(self.path("store/staging")).unwrap().count()
    }
}

/// Runs a command that must succeed; its output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let done = Finished::of(command.output().unwrap());
    assert_eq!(done.code, 0, "{command:?}: {}", done.stderr);
    done.stdout
}

/// Paths of all that is below a folder.
pub fn listing(top: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(folder) = ahead.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                ahead.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

/// A layer in the making, whose names are taken as they are.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn entry(mut self, kind: tar::EntryType, name: &str, link: &str, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, name, "", data)
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A layer of plain files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    files.iter().fold(Layer::new(), |layer, (name, data)| layer.file(name, data)).finish()
}
