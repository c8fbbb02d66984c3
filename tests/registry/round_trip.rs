//! What is pushed is pulled again, byte for byte.

use std::fs;

use ampoule::image::Digest;

use crate::lab::{Lab, layer, listing};
use crate::real::Real;

/// An image of two layers with this compression, loaded by this name.
fn loaded(lab: &Lab, name: &str, compression: &str, top: &[u8]) -> String {
    let below = lab.file("below.tar", &layer(&[("etc/below", &b"below ".repeat(5000))]));
    let top = lab.file("top.tar", &layer(&[("etc/top", top)]));
    let options = ["--name", name, "--compress", compression];
    let archive = lab.pack("image.tar", &options, &[&below, &top]);
    lab.load(&archive).gives(0, &format!("Loaded image: {name}\n"));
    archive
}

/// All blobs of a store by their names.
fn blobs(lab: &Lab) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(lab.path("store/blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_pushed_image_comes_back_byte_for_byte() {
    for compression in ["none", "gzip", "zstd"] {
        let (from, to) = (Lab::new(), Lab::new());
        let registry = Real::plain(&from.path("registry"));
        let name = registry.name("team/box:1");
        loaded(&from, &name, compression, b"top");
        let pushed = from.ampoule.ok(&["push", &name]);
        let manifest = from.store().get(&name).unwrap().manifest().unwrap().unwrap();
        let digest = Digest::of(&manifest);
        assert!(pushed.ends_with(&format!("1: digest: {digest} size: {}\n", manifest.len())));
        let pulled = to.ampoule.ok(&["pull", &name]);
        assert!(pulled.contains(&format!("Digest: {digest}\nStatus: Downloaded newer image for")));
        assert!(pulled.ends_with(&format!("{name}\n")), "{pulled}");
        let (before, after) = (from.store().get(&name).unwrap(), to.store().get(&name).unwrap());
        assert_eq!(before.id, after.id);
        assert_eq!(before.config_bytes(), after.config_bytes());
        assert_eq!(manifest, after.manifest().unwrap().unwrap());
        assert_eq!(fs::read(before.rootfs).unwrap(), fs::read(after.rootfs).unwrap());
        assert_eq!(blobs(&from), blobs(&to));
        for blob in blobs(&to) {
            let bytes = fs::read(to.path("store/blobs/sha256").join(&blob)).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), blob);
        }
        // And so does what is saved of both.
        for lab in [&from, &to] {
            lab.ampoule.ok(&["save", "-o", &lab.text("saved.tar"), &name]);
        }
        assert_eq!(
            fs::read(from.path("saved.tar")).unwrap(),
            fs::read(to.path("saved.tar")).unwrap()
        );
    }
}

#[test]
fn only_what_is_missing_is_fetched() {
    let (from, to) = (Lab::new(), Lab::new());
    let registry = Real::plain(&from.path("registry"));
    let (one, two) = (registry.name("box:1"), registry.name("box:2"));
    for (name, top) in [(&one, &b"one"[..]), (&two, b"two")] {
        loaded(&from, name, "gzip", top);
        from.ampoule.ok(&["push", name]);
    }
    to.ampoule.ok(&["pull", &one]);
    // Configuration and two layers.
    assert_eq!(registry.blob_requests(), 3);
    let pulled = to.ampoule.ok(&["pull", &two]);
    assert_eq!(registry.blob_requests(), 5);
    assert!(pulled.contains("Already exists") && pulled.contains("Pull complete"), "{pulled}");
    let again = to.ampoule.ok(&["pull", &two]);
    assert!(again.contains("Status: Image is up to date for"), "{again}");
    assert_eq!(registry.blob_requests(), 6);
    let pushed = from.ampoule.ok(&["push", &two]);
    assert_eq!(pushed.matches("Layer already exists").count(), 2, "{pushed}");
    // What the second has of the first stays when that goes.
    to.ampoule.ok(&["image", "rm", &one]);
    assert_eq!(blobs(&to).len(), 2);
    to.ampoule.ok(&["image", "rm", &two]);
    assert_eq!(blobs(&to), Vec::<String>::new());
    assert!(listing(&to.path("store/downloads")).is_empty());
}

#[test]
fn an_image_is_pulled_by_its_digest() {
    let (from, to) = (Lab::new(), Lab::new());
    let registry = Real::plain(&from.path("registry"));
    let name = registry.name("box");
    loaded(&from, &format!("{name}:latest"), "gzip", b"top");
    from.ampoule.ok(&["push", &name]);
    let digest = Digest::of(&from.store().get(&name).unwrap().manifest().unwrap().unwrap());
    let full = format!("{name}@{digest}");
    assert_eq!(to.ampoule.ok(&["pull", "-q", &full]), format!("{full}\n"));
    let listed = to.ampoule.ok(&["image", "ls", "--digests"]);
    assert!(listed.contains(&digest.to_string()) && listed.contains("<none>"), "{listed}");
    // With the tag, the digest stays the image's.
    to.ampoule.ok(&["pull", &name]);
    let json = to.ampoule.ok(&["image", "inspect", &name]);
    assert!(json.contains(&format!("\"{full}\"")) && json.contains(&format!("\"{name}:latest\"")));
    let gone = to.ampoule.ok(&["image", "rm", &name]);
    assert!(gone.contains("Untagged: ") && gone.contains("Deleted: "), "{gone}");
    let other = Digest::of(b"other");
    to.ampoule
        .output(&["pull", &format!("{name}@{other}")])
        .fails(125, &["does not have the manifest of", "manifest unknown"]);
}

#[test]
fn what_is_not_there_is_told() {
    let lab = Lab::new();
    let registry = Real::plain(&lab.path("registry"));
    lab.ampoule
        .output(&["pull", &registry.name("nothing:1")])
        .fails(125, &[&registry.host, "nothing:1", "manifest unknown"]);
    lab.ampoule.output(&["push", &registry.name("nothing:1")]).fails(125, &["no such image"]);
    // Nobody listens there.
    lab.ampoule
        .output(&["pull", "127.0.0.1:1/box"])
        .fails(125, &["cannot reach the registry 127.0.0.1:1", "refused"]);
    lab.ampoule.output(&["run", "--pull", "never", "nothing"]).fails(125, &["no such image"]);
}
