//! Archives that are damaged, lie or try to get out: refused by name, and nothing of them stays.

use std::fs;

use tar::EntryType;

use crate::lab::{Lab, Layer, layer, listing};

#[test]
fn what_is_no_archive_is_told() {
    let lab = Lab::new();
    lab.refuses(&lab.text("none.tar"), &["none.tar", "No such file"]);
    lab.refuses(&lab.file("text.tar", &b"text ".repeat(1000)), &["not a tar archive"]);
    lab.refuses(&lab.file("empty.tar", b""), &["not a tar archive"]);
    lab.refuses(&lab.file("other.tar", &layer(&[("a", b"a")])), &["no image", "index.json"]);
    let before = lab.stored();
    let done = lab.ampoule.with_input(&["load"], Vec::new());
    assert_eq!(done.status.code(), Some(125), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("not a tar archive"), "{done:?}");
    assert_eq!(lab.stored(), before);
}

#[test]
fn an_archive_that_is_cut_short_is_told_wherever_it_ends() {
    let lab = Lab::new();
    let whole = fs::read(lab.small("box")).unwrap();
    // Zeroes fill up the archive behind its last file.
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for length in [700, 1024 + 100, end / 2, end - 1] {
        let cut = lab.file("cut.tar", &whole[..length]);
        lab.refuses(&cut, &["cut short"]);
        let piped = lab.ampoule.with_input(&["load"], whole[..length].to_vec());
        assert_eq!(piped.status.code(), Some(125), "{length}: {piped:?}");
        assert_eq!(lab.staging(), 0);
    }
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_named() {
    let lab = Lab::new();
    let files = layer(&[("etc/secret", b"the content of the layer")]);
    let packed = lab.file("layer.tar", &files);
    for (format, words) in [
        ("oci", &["blobs/sha256/", "is damaged", "its digest is"][..]),
        ("docker", &["layer.tar", "is not that of the image"]),
    ] {
        let options = ["--format", format, "--compress", "none", "--name", "box"];
        let mut bytes = fs::read(lab.pack("whole.tar", &options, &[&packed])).unwrap();
        let text = b"the content of the layer";
        let at = bytes.windows(text.len()).position(|part| part == text).unwrap();
        bytes[at] ^= 1;
        lab.refuses(&lab.file("damaged.tar", &bytes), words);
    }
}

/// Loads an image of this layer beside a folder that must stay as it is.
#[track_caller]
fn tries(layer: Layer, refused: Option<&[&str]>) {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("canary/below")).unwrap();
    let canary = lab.file("canary/file", b"untouched");
    let layer = lab.file("layer.tar", &layer.finish());
    let archive = lab.pack("box.tar", &["--name", "box"], &[&layer]);
    let outside = || {
        let mut found = listing(&lab.path(""));
        found.retain(|path| !path.starts_with(lab.path("store")));
        found
    };
    let before = outside();
    match refused {
        Some(words) => lab.refuses(&archive, words),
        None => lab.load(&archive).gives(0, "Loaded image: box:latest\n"),
    }
    assert_eq!(outside(), before);
    assert_eq!(fs::read(canary).unwrap(), b"untouched");
}

#[test]
fn names_that_lead_out_of_the_root_are_refused() {
    for name in ["../canary/file", "a/../../canary/file", "../../../../../../tmp/ampoule-canary"] {
        tries(Layer::new().file(name, b"escaped"), Some(&[name, "outside the root"]));
    }
    let link = Layer::new().entry(EntryType::Link, "etc/passwd", "../canary/file", b"");
    tries(link, Some(&["etc/passwd", "../canary/file", "outside the root"]));
}

#[test]
fn absolute_names_and_links_stay_in_the_image() {
    tries(Layer::new().file("/tmp/ampoule-canary", b"inside"), None);
    assert!(!fs::exists("/tmp/ampoule-canary").unwrap());
    for target in ["/tmp", "../../../../../../tmp", "/"] {
        let layer = Layer::new()
            .entry(EntryType::Symlink, "way", target, b"")
            .file("way/ampoule-canary", b"inside")
            .file("way/tmp/ampoule-canary", b"inside");
        tries(layer, None);
        assert!(!fs::exists("/tmp/ampoule-canary").unwrap(), "{target}");
    }
}

#[test]
fn a_hard_link_cannot_reach_a_file_of_the_host() {
    let link = Layer::new().entry(EntryType::Link, "copy", "/etc/passwd", b"");
    tries(link, Some(&["copy", "/etc/passwd", "does not exist"]));
    let through = Layer::new().entry(EntryType::Symlink, "way", "/etc", b"").entry(
        EntryType::Link,
        "copy",
        "way/passwd",
        b"",
    );
    tries(through, Some(&["copy", "way/passwd", "does not exist"]));
}
