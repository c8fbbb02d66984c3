use std::collections::BTreeSet;
use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::archive::{ARCHITECTURE, ArchiveError};
use super::super::testing::{Item, archive, read_image};
use super::staging::Staging;
use super::*;

/// An archive in the making: its files by name.
#[derive(Default, Clone)]
struct Parts(Vec<(String, Vec<u8>)>);

impl Parts {
    fn file(&mut self, name: &str, bytes: &[u8]) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), bytes.to_vec()));
    }

    /// Adds a blob; its descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.file(name, value.to_string().as_bytes());
    }

    fn tar(&self) -> Vec<u8> {
        archive(self.0.iter().map(|(name, bytes)| Item::file(name, bytes)))
    }
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({
        "architecture": ARCHITECTURE, "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/sh"], "Env": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes()
}

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Adds an image with the layers `files` (of the contents `layers`); its manifest's descriptor.
fn image(parts: &mut Parts, layers: &[Vec<u8>], files: &[Vec<u8>]) -> Value {
    let config = parts.blob(CONFIG_TYPE, &config(layers));
    let layers: Vec<_> = files.iter().map(|file| parts.blob(LAYER_TYPE, file)).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    parts.blob(MANIFEST_TYPE, manifest.to_string().as_bytes())
}

fn with_name(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"io.containerd.image.name": name});
    descriptor
}

fn index(parts: &mut Parts, manifests: &[Value]) {
    parts.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
    parts.json("index.json", &json!({"schemaVersion": 2, "manifests": manifests}));
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        archive([Item::file("etc/hostname", "below"), Item::file("gone", "x")]),
        archive([Item::new(b'0', ".wh.gone"), Item::file("etc/hostname", "above")]),
    ]
}

/// An OCI layout of one image called `name`.
fn oci(name: &str) -> Parts {
    let mut parts = Parts::default();
    let descriptor = image(&mut parts, &layers(), &layers());
    index(&mut parts, &[with_name(descriptor, name)]);
    parts
}

/// What `docker save` wrote before version 25.
fn classic(tags: &[&str]) -> Parts {
    let mut parts = Parts::default();
    let config = config(&layers());
    let name = format!("{}.json", Digest::of(&config).hex());
    parts.file(&name, &config);
    for (at, layer) in layers().iter().enumerate() {
        parts.file(&format!("{at}/layer.tar"), layer);
    }
    let files = ["0/layer.tar", "1/layer.tar"];
    parts.json("manifest.json", &json!([{"Config": name, "RepoTags": tags, "Layers": files}]));
    parts
}

struct Lab {
    folder: tempfile::TempDir,
    store: Store,
}

fn lab() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    Lab { folder, store }
}

impl Lab {
    fn load(&self, bytes: &[u8]) -> Result<Vec<Loaded>, LoadError> {
        self.store.load(bytes, &mut |_| {})
    }

    /// Paths of everything under the folder of the test.
    fn everything(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut ahead = vec![self.folder.path().to_owned()];
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

    /// Loads what must be refused, and sees that the store is as before; the message.
    fn refuse(&self, bytes: &[u8]) -> String {
        // A load makes the lock file.
        drop(self.store.lock_exclusive().unwrap());
        let before = self.everything();
        let error = self.load(bytes).unwrap_err();
        assert_eq!(self.everything(), before, "left behind after {error}");
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        text
    }
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().filter_map(|image| image.reference.as_ref().map(Reference::familiar)).collect()
}

#[test]
fn an_oci_layout_is_loaded() {
    let lab = lab();
    let loaded = lab.load(&oci("docker.io/library/box:1").tar()).unwrap();
    assert_eq!(names(&loaded), ["box:1"]);
    let image = lab.store.get("box:1").unwrap();
    assert_eq!(image.id, Digest::of(&config(&layers())));
    assert_eq!(image.created.unwrap().to_string(), "2024-01-02T03:04:05Z");
    let cmd = image.config.config().as_ref().and_then(|config| config.cmd().clone());
    assert_eq!(cmd, Some(vec!["/bin/sh".to_owned()]));
    let files = read_image(&fs::read(&image.rootfs).unwrap());
    assert_eq!(files.keys().collect::<Vec<_>>(), ["/", "/etc", "/etc/hostname"]);
    assert_eq!(files["/etc/hostname"].data, b"above");
}

#[test]
fn layers_are_decompressed_and_archives_as_well() {
    let gzip = |data: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let plain = layers();
    let files = [gzip(&plain[0]), zstd::encode_all(&*plain[1], 3).unwrap()];
    let mut parts = Parts::default();
    let descriptor = image(&mut parts, &plain, &files);
    index(&mut parts, &[with_name(descriptor, "box")]);
    for bytes in [parts.tar(), gzip(&parts.tar()), zstd::encode_all(&*parts.tar(), 1).unwrap()] {
        let lab = lab();
        lab.load(&bytes).unwrap();
        let files = read_image(&fs::read(lab.store.get("box").unwrap().rootfs).unwrap());
        assert_eq!(files["/etc/hostname"].data, b"above");
    }
}

#[test]
fn what_docker_save_writes_is_loaded() {
    let lab = lab();
    let loaded = lab.load(&classic(&["box:1", "user/box:2"]).tar()).unwrap();
    assert_eq!(names(&loaded), ["box:1", "user/box:2"]);
    assert_eq!(lab.store.get("user/box:2").unwrap().references.len(), 2);
}

#[test]
fn a_layer_may_be_a_link_to_that_of_another_image() {
    let parts = classic(&["box"]);
    let tar = archive(parts.0.iter().flat_map(|(name, bytes)| {
        if name == "1/layer.tar" {
            vec![Item::symlink(name, "../shared/layer.tar"), Item::file("shared/layer.tar", bytes)]
        } else {
            vec![Item::file(name, bytes)]
        }
    }));
    lab().load(&tar).unwrap();
}

#[test]
fn names_come_from_both_layouts_of_one_archive() {
    let mut parts = Parts::default();
    let descriptor = image(&mut parts, &layers(), &layers());
    let config = format!("blobs/sha256/{}", Digest::of(&config(&layers())).hex());
    index(&mut parts, &[descriptor]);
    parts.json("manifest.json", &json!([{"Config": config, "RepoTags": ["box:3"], "Layers": []}]));
    assert_eq!(names(&lab().load(&parts.tar()).unwrap()), ["box:3"]);
}

#[test]
fn an_image_without_name_is_found_by_its_id() {
    let lab = lab();
    let loaded = lab.load(&classic(&[]).tar()).unwrap();
    let id = loaded[0].id;
    assert_eq!(loaded, [Loaded { reference: None, id }]);
    for text in [id.to_string(), id.hex(), id.hex()[..6].to_owned()] {
        assert_eq!(lab.store.get(&text).unwrap().id, id, "{text}");
    }
}

#[test]
fn an_index_in_the_index_offers_this_machine_s_image() {
    let mut parts = Parts::default();
    let mut mine = image(&mut parts, &layers(), &layers());
    mine["platform"] = json!({"os": "linux", "architecture": ARCHITECTURE});
    let mut other = mine.clone();
    other["digest"] = json!(Digest::of(b"not there").to_string());
    other["platform"] = json!({"os": "linux", "architecture": "riscv64"});
    let mut attestation = other.clone();
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let both = json!({"schemaVersion": 2, "manifests": [attestation, other, mine]});
    let both = parts.blob(INDEX_TYPE, both.to_string().as_bytes());
    index(&mut parts, &[with_name(both, "box")]);
    assert_eq!(names(&lab().load(&parts.tar()).unwrap()), ["box:latest"]);
    let alone = json!({"schemaVersion": 2, "manifests": [other]});
    let alone = parts.blob(INDEX_TYPE, alone.to_string().as_bytes());
    index(&mut parts, &[alone]);
    assert!(lab().refuse(&parts.tar()).contains("is for linux/riscv64"));
}

#[test]
fn files_and_folders_are_loaded_in_place() {
    let lab = lab();
    let parts = oci("box");
    let file = lab.folder.path().join("box.tar");
    fs::write(&file, parts.tar()).unwrap();
    lab.store.load_path(&file, &mut |_| {}).unwrap();
    lab.store.remove("box", false).unwrap();
    let folder = lab.folder.path().join("unpacked");
    for (name, bytes) in &parts.0 {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
    lab.store.load_path(&folder, &mut |_| {}).unwrap();
    lab.store.get("box").unwrap();
    let missing = lab.store.load_path(&lab.folder.path().join("none"), &mut |_| {}).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
}

#[test]
fn an_unpacked_archive_cannot_name_files_outside() {
    let lab = lab();
    let folder = lab.folder.path().join("unpacked");
    fs::create_dir(&folder).unwrap();
    fs::write(lab.folder.path().join("secret.json"), config(&[])).unwrap();
    std::os::unix::fs::symlink("../secret.json", folder.join("link.json")).unwrap();
    for name in ["../secret.json", "link.json"] {
        let manifest = json!([{"Config": name, "RepoTags": ["box"], "Layers": []}]);
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        lab.store.load_path(&folder, &mut |_| {}).unwrap_err();
    }
}

#[test]
fn an_image_that_is_there_is_not_unpacked_again() {
    let lab = lab();
    lab.load(&oci("box:1").tar()).unwrap();
    let layers_read = std::cell::Cell::new(0);
    let mut count = |progress| {
        if matches!(progress, Progress::Layer { .. }) {
            layers_read.set(layers_read.get() + 1);
        }
    };
    let loaded = lab.store.load(&*oci("box:2").tar(), &mut count).unwrap();
    assert_eq!((names(&loaded), layers_read.get()), (vec!["box:2".to_owned()], 0));
    assert_eq!(lab.store.list().unwrap().len(), 1);
}

#[test]
fn a_name_moves_to_the_image_that_was_loaded_last() {
    let lab = lab();
    lab.load(&oci("box").tar()).unwrap();
    let mut parts = Parts::default();
    let descriptor = image(&mut parts, &[], &[]);
    index(&mut parts, &[with_name(descriptor, "box")]);
    lab.load(&parts.tar()).unwrap();
    assert_eq!(lab.store.get("box").unwrap().id, Digest::of(&config(&[])));
    let images = lab.store.list().unwrap();
    assert_eq!(images.iter().filter(|image| image.references.is_empty()).count(), 1);
}

#[test]
fn names_are_taken_away_before_images() {
    let lab = lab();
    lab.load(&classic(&["box:1", "box:2"]).tar()).unwrap();
    let id = lab.store.get("box:1").unwrap().id;
    let untagged = |name: &str| Removed::Untagged(name.parse().unwrap());
    assert_eq!(lab.store.remove("box:1", false).unwrap(), [untagged("box:1")]);
    let last = [untagged("box:2"), Removed::Deleted(id)];
    assert_eq!(lab.store.remove("box:2", false).unwrap(), last);
    assert!(matches!(lab.store.get("box:2"), Err(StoreError::NotFound(_))));
    assert!(!lab.store.folder(id).exists());
    assert_eq!(fs::read_dir(lab.store.staging()).unwrap().count(), 0);
}

#[test]
fn an_id_with_names_in_several_repositories_needs_force() {
    let lab = lab();
    lab.load(&classic(&["a", "b"]).tar()).unwrap();
    let id = lab.store.get("a").unwrap().id;
    let refused = lab.store.remove(&id.hex()[..12], false).unwrap_err();
    assert!(matches!(refused, StoreError::Referenced { .. }), "{refused}");
    assert_eq!(lab.store.remove(&id.hex()[..12], true).unwrap().len(), 3);
}

#[test]
fn an_image_in_use_stays() {
    let lab = lab();
    lab.load(&oci("box").tar()).unwrap();
    let image = lab.store.get("box").unwrap();
    let inherited = image.guard().try_clone().unwrap();
    drop(image);
    assert!(matches!(lab.store.remove("box", true), Err(StoreError::InUse { .. })));
    drop(inherited);
    lab.store.remove("box", false).unwrap();
}

#[test]
fn what_is_no_image_is_told_from_what_is_no_name() {
    let lab = lab();
    for text in ["box", "abc", "sha256:abc", "a@sha256:12"] {
        let error = lab.store.get(text).unwrap_err();
        assert!(matches!(error, StoreError::NotFound(_) | StoreError::Reference(_)), "{text}");
    }
    assert!(matches!(lab.store.get("box"), Err(StoreError::NotFound(_))));
    assert!(matches!(lab.store.get("Box Box"), Err(StoreError::Reference(_))));
    lab.load(&oci("box").tar()).unwrap();
    let manifest = fs::read(lab.store.get("box").unwrap().rootfs.with_file_name(MANIFEST)).unwrap();
    let digest = Digest::of(&manifest);
    lab.store.get(&format!("box@{digest}")).unwrap();
    lab.store.get(&digest.to_string()).unwrap();
    assert!(matches!(lab.store.get(&format!("other@{digest}")), Err(StoreError::NotFound(_))));
}

#[test]
fn leftovers_of_killed_loads_go_with_the_next_one() {
    let lab = lab();
    let leftover = lab.store.staging().join("killed");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join(ROOTFS), "half").unwrap();
    let running = Staging::create(&lab.store, &lab.store.lock_exclusive().unwrap()).unwrap();
    lab.load(&oci("box").tar()).unwrap();
    assert!(!leftover.exists());
    assert!(running.path().exists());
}

#[test]
fn loads_at_once_do_not_disturb_each_other() {
    let lab = lab();
    let bytes = oci("box").tar();
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| lab.load(&bytes))).collect();
        for load in loads {
            load.join().unwrap().unwrap();
        }
    });
    assert_eq!(lab.store.list().unwrap().len(), 1);
    assert_eq!(fs::read_dir(lab.store.staging()).unwrap().count(), 0);
}

#[test]
fn damage_is_named_and_leaves_nothing() {
    let lab = lab();
    let whole = oci("box").tar();
    assert_eq!(lab.refuse(b""), "this is not a tar archive");
    assert_eq!(lab.refuse(&[b'x'; 4096]), "this is not a tar archive");
    assert_eq!(
        lab.refuse(b"\xfd7zXZ\0 and so on"),
        "xz compression is not supported (gzip and zstd are)"
    );
    // Within the data of an entry, between two entries, and within a header.
    for length in [whole.len() - 1100, 512 + 512, whole.len() / 1024 * 512 + 100] {
        let text = lab.refuse(&whole[..length]);
        assert!(text.contains("cut short"), "{length}: {text}");
    }
    assert!(lab.refuse(&archive([Item::file("x", "")])).contains("no image in the archive"));
    assert!(
        lab.refuse(&archive([Item::file("../x", "")])).contains(r#"the entry "../x" is refused"#)
    );
}

#[test]
fn every_digest_is_checked() {
    let parts = oci("box");
    let blobs = parts.0.iter().filter(|(name, _)| name.starts_with("blobs/"));
    for (at, (name, bytes)) in blobs.enumerate() {
        let mut damaged = parts.clone();
        let mut bytes = bytes.clone();
        // In the middle of a layer is data, so that the entries stay whole.
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        damaged.file(name, &bytes);
        let text = lab().refuse(&damaged.tar());
        assert!(text.contains(name) && text.contains("its digest is"), "{at}: {text}");
        damaged.file(name, &bytes[1..]);
        let text = lab().refuse(&damaged.tar());
        assert!(text.contains(name) && text.contains("its size is"), "{at}: {text}");
        damaged.0.retain(|(known, _)| known != name);
        let text = lab().refuse(&damaged.tar());
        assert!(text.contains(name) && text.contains("is missing"), "{at}: {text}");
    }
    let mut damaged = classic(&["box"]);
    damaged.file("0/layer.tar", &archive([Item::file("other", "")]));
    assert!(
        lab().refuse(&damaged.tar()).contains("the layer 0/layer.tar is not that of the image")
    );
}

#[test]
fn documents_that_lie_are_refused() {
    let mut parts = classic(&["Not A Name"]);
    assert!(lab().refuse(&parts.tar()).contains("invalid image reference"));
    parts.file("manifest.json", b"{");
    assert!(lab().refuse(&parts.tar()).starts_with("manifest.json is not valid"));
    parts.json("manifest.json", &json!([{"Config": "../c", "Layers": []}]));
    assert_eq!(lab().refuse(&parts.tar()), "../c is missing in the archive");
    parts.file("manifest.json", &vec![b' '; 5 << 20]);
    assert!(lab().refuse(&parts.tar()).contains("larger than"));
    let mut parts = Parts::default();
    let descriptor = image(&mut parts, &layers()[..1], &layers());
    index(&mut parts, &[descriptor]);
    assert!(lab().refuse(&parts.tar()).contains("lists 2 layers, the image's configuration 1"));
}

#[test]
fn one_bad_image_of_an_archive_keeps_them_all_out() {
    let mut parts = Parts::default();
    let good = image(&mut parts, &layers(), &layers());
    let bad = [archive([Item::file("../x", "")])];
    let bad = image(&mut parts, &bad, &bad);
    index(&mut parts, &[with_name(good, "good"), with_name(bad, "bad")]);
    assert!(lab().refuse(&parts.tar()).contains("outside the root"));
}

#[test]
fn a_bomb_ends_at_its_bound() {
    let zeroes = archive([Item::file("bomb", vec![0; 8 << 20])]);
    let mut parts = Parts::default();
    let small = zstd::encode_all(&*zeroes, 1).unwrap();
    let descriptor = image(&mut parts, std::slice::from_ref(&zeroes), &[small]);
    index(&mut parts, &[descriptor]);
    let mut lab = lab();
    let limits = Limits { unpacked_bytes: 4 << 20, ..Limits::default() };
    lab.store = lab.store.clone().with_limits(limits);
    assert!(lab.refuse(&parts.tar()).contains("more than 4194304 bytes after decompression"));
    let limits = Limits { reserve_bytes: u64::MAX, ..Limits::default() };
    lab.store = lab.store.clone().with_limits(limits);
    let text = lab.refuse(&parts.tar());
    let root = lab.folder.path().join("store");
    assert!(text.contains("ampoule image rm") && text.contains(root.to_str().unwrap()), "{text}");
}

#[test]
fn names_without_end_are_refused() {
    let names: Vec<_> = (0..2000).map(|n| format!("box:{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert!(lab().refuse(&classic(&names).tar()).contains("more than 1000 names"));
}

#[test]
fn errors_keep_their_kind() {
    let error = lab().load(&[0; 100]).unwrap_err();
    assert!(matches!(error, LoadError::Archive(ArchiveError::NotAnArchive)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_damage_is_survived_and_stays_in_the_store(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        oci_layout in any::<bool>(),
    ) {
        let mut bytes = if oci_layout { oci("box").tar() } else { classic(&["box"]).tar() };
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let lab = lab();
        let _ = lab.load(&bytes);
        let root = lab.folder.path().join("store");
        for path in lab.everything() {
            prop_assert!(path.starts_with(&root), "{}", path.display());
        }
        prop_assert_eq!(fs::read_dir(lab.store.staging()).unwrap().count(), 0);
    }
}
