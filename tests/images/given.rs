//! `ampoule save`: what was loaded is given on as it came.

use std::fs;
use std::process::{Command, Stdio};

use ampoule::image::Digest;
use serde_json::Value;

use crate::lab::{Lab, layer, run};

/// Loads an image of two layers that are packed like this.
fn loaded(lab: &Lab, name: &str, options: &[&str]) {
    let lower = lab.file("lower.tar", &layer(&[("lower", b"lower")]));
    let upper = lab.file("upper.tar", &layer(&[("upper", name.as_bytes())]));
    let options = [&["--name", name], options].concat();
    let archive = lab.pack("box.tar", &options, &[&lower, &upper]);
    lab.load(&archive).gives(0, &format!("Loaded image: {name}\n"));
}

#[test]
fn the_same_images_give_the_same_bytes() {
    for options in [&["--compress", "gzip"][..], &["--compress", "zstd"], &["--format", "docker"]] {
        let lab = Lab::new();
        loaded(&lab, "box:1", options);
        lab.ampoule.ok(&["save", "-o", &lab.text("one.tar"), "box:1"]);
        lab.ampoule.ok(&["save", "-o", &lab.text("two.tar"), "box:1"]);
        let one = fs::read(lab.path("one.tar")).unwrap();
        assert_eq!(one, fs::read(lab.path("two.tar")).unwrap());
        // Through another store, and by a pipe.
        let other = Lab::new();
        let done = other.ampoule.with_input(&["load"], one.clone());
        assert_eq!(String::from_utf8_lossy(&done.stdout), "Loaded image: box:1\n", "{done:?}");
        let piped = other.ampoule.command(["save", "box:1"]).stdout(Stdio::piped()).output();
        assert!(piped.unwrap().stdout == one, "{options:?}");
        let (before, after) = (lab.store().get("box:1"), other.store().get("box:1"));
        assert_eq!(before.unwrap().id, after.unwrap().id);
    }
}

#[test]
fn an_archive_has_both_layouts() {
    let lab = Lab::new();
    loaded(&lab, "box:1", &["--compress", "gzip"]);
    lab.ampoule.ok(&["tag", "box:1", "registry.test/box:2"]);
    let names = ["box:1", "registry.test/box:2"];
    lab.ampoule.ok(&["save", "-o", &lab.text("out.tar"), names[0], names[1]]);
    fs::create_dir(lab.path("out")).unwrap();
    run(Command::new("tar").args(["-xf", &lab.text("out.tar"), "-C", &lab.text("out")]));
    let json = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(lab.path("out").join(name)).unwrap()).unwrap()
    };
    let items = json("manifest.json");
    assert_eq!(items[0]["RepoTags"], serde_json::json!(names));
    let index = json("index.json");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/box:1");
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
    for entry in fs::read_dir(lab.path("out/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let digest = Digest::of(&fs::read(&path).unwrap()).hex();
        assert_eq!(path.file_name().unwrap().to_str(), Some(digest.as_str()));
    }
    for name in items[0]["Layers"].as_array().unwrap() {
        assert!(lab.path("out").join(name.as_str().unwrap()).is_file());
    }
    lab.load(&lab.text("out.tar"))
        .gives(0, "Loaded image: box:1\nLoaded image: registry.test/box:2\n");
}

#[test]
fn a_name_alone_means_all_of_its_tags() {
    let lab = Lab::new();
    loaded(&lab, "box:1", &["--compress", "gzip"]);
    loaded(&lab, "box:2", &["--compress", "gzip"]);
    loaded(&lab, "other:1", &["--compress", "gzip"]);
    let load = |archive: Vec<u8>| {
        let mut lines: Vec<_> =
            String::from_utf8(Lab::new().ampoule.with_input(&["load"], archive).stdout)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect();
        lines.sort();
        lines
    };
    let save = |args: &[&str]| lab.ampoule.command(args).output().unwrap().stdout;
    let both = load(save(&["save", "box"]));
    assert_eq!(both, ["Loaded image: box:1", "Loaded image: box:2"]);
    let id = lab.store().get("box:2").unwrap().id.to_string();
    assert_eq!(load(save(&["image", "save", &id])), [format!("Loaded image ID: {id}")]);
}

#[test]
fn what_cannot_be_saved_leaves_no_file() {
    let lab = Lab::new();
    loaded(&lab, "box:1", &["--compress", "gzip"]);
    let out = lab.text("out.tar");
    lab.ampoule.output(&["save", "-o", &out, "box:1", "none"]).fails(125, &["no such image"]);
    lab.ampoule
        .output(&["save", "-o", &lab.text("no/out.tar"), "box:1"])
        .fails(125, &["no/out.tar"]);
    assert!(!lab.path("out.tar").exists());
    // What was loaded by an ampoule that kept no layers says so.
    let id = lab.store().get("box:1").unwrap().id;
    fs::remove_file(lab.path("store/images").join(id.hex()).join("layers.json")).unwrap();
    let words = ["the layers of the image", "load or pull it again"];
    lab.ampoule.output(&["save", "-o", &out, "box:1"]).fails(125, &words);
    loaded(&lab, "box:1", &["--compress", "gzip"]);
    lab.ampoule.ok(&["save", "-o", &out, "box:1"]);
}
