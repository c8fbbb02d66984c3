//! `ampoule import`, `tag`, `image inspect` and `history`.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::lab::{Lab, layer};

fn inspected(lab: &Lab, image: &str) -> Value {
    let all: Value = serde_json::from_str(&lab.ampoule.ok(&["image", "inspect", image])).unwrap();
    all[0].clone()
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let lab = Lab::new();
    let rootfs = lab.file("rootfs.tar", &layer(&[("bin/x", b"x")]));
    let change = ["-c", "CMD [\"/bin/x\"]", "-c", "ENV A=1", "-m", "made here"];
    let args = [&["import"][..], &change, &[&rootfs, "box:1"]].concat();
    let id = lab.ampoule.ok(&args).trim().to_owned();
    let image = inspected(&lab, "box:1");
    assert_eq!(image["Id"], id.as_str());
    assert_eq!(image["Config"], json!({"Cmd": ["/bin/x"], "Env": ["A=1"]}));
    assert_eq!((&image["Os"], &image["Comment"]), (&json!("linux"), &json!("made here")));
    let packed = Command::new("gzip").args(["-c", &rootfs]).output().unwrap().stdout;
    let piped = lab.ampoule.with_input(&["import", "-", "zipped"], packed);
    assert_eq!(piped.status.code(), Some(0), "{piped:?}");
    assert_eq!(inspected(&lab, "zipped")["RootFS"], image["RootFS"]);
    assert_eq!(inspected(&lab, "zipped")["Comment"], "Imported from -");
    // What comes of it is an image like others.
    lab.ampoule.ok(&["save", "-o", &lab.text("out.tar"), "zipped"]);
    lab.load(&lab.text("out.tar")).gives(0, "Loaded image: zipped:latest\n");
    assert_eq!(lab.staging(), 0);
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let lab = Lab::new();
    lab.ampoule.ok(&["image", "ls"]);
    let before = lab.stored();
    for (bytes, words) in [
        (&b""[..], &["not a tar archive"][..]),
        (&b"text ".repeat(1000), &["cannot be used"]),
        (&layer(&[("../x", b"")]), &["is refused"]),
    ] {
        lab.ampoule.output(&["import", &lab.file("x", bytes)]).fails(125, words);
    }
    lab.ampoule.output(&["import", &lab.text("none")]).fails(125, &["none", "No such file"]);
    let change = ["import", "-c", "RUN ls", "-", "x"];
    lab.ampoule.output(&change).fails(125, &["invalid change", "CMD, ENTRYPOINT"]);
    assert_eq!(lab.stored(), before);
}

#[test]
fn a_tag_is_one_more_name() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    lab.ampoule.output(&["tag", "box:1", "registry.test/me/box"]).gives(0, "");
    let image = inspected(&lab, "registry.test/me/box");
    assert_eq!(image["RepoTags"], json!(["box:1", "registry.test/me/box:latest"]));
    lab.ampoule.output(&["tag", "none", "x"]).fails(125, &["no such image"]);
    lab.ampoule.output(&["tag", "box:1", "X"]).fails(125, &["lower case"]);
    let digest = format!("x@{}", lab.store().get("box:1").unwrap().id);
    lab.ampoule.output(&["tag", "box:1", &digest]).fails(125, &["has a digest"]);
    let done = lab.ampoule.output(&["image", "inspect", "box:1", "none"]);
    done.fails(125, &["no such image"]);
    assert!(done.stdout.contains("box:1"));
    let line = lab.ampoule.ok(&["image", "inspect", "-f", "json", "box:1"]);
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn history_is_a_table_or_json() {
    let lab = Lab::new();
    let rootfs = lab.file("rootfs.tar", &layer(&[("bin/x", b"x")]));
    let id = lab.ampoule.ok(&["import", "-m", "made\nhere", &rootfs, "box"]);
    let table = lab.ampoule.ok(&["history", "box"]);
    let short = &id["sha256:".len()..][..12];
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("IMAGE") && lines[0].ends_with("COMMENT"), "{table}");
    assert!(lines[1].starts_with(short) && lines[1].ends_with("made here"), "{table}");
    assert_eq!(lab.ampoule.ok(&["image", "history", "-q", "--no-trunc", "box"]), id);
    let json = lab.ampoule.ok(&["history", "--format", "json", "box"]);
    let row: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&row["ID"], &row["Comment"]), (&json!(short), &json!("made here")));
}

#[test]
fn a_damaged_configuration_is_named() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let id = lab.store().get("box:1").unwrap().id;
    let path = lab.path("store/images").join(id.hex()).join("config.json");
    let mut config = fs::read(&path).unwrap();
    *config.iter_mut().find(|byte| **byte == b'l').unwrap() = b'm';
    fs::write(&path, config).unwrap();
    let words = ["the image store is damaged", "config.json"];
    lab.ampoule.output(&["image", "inspect", "box:1"]).fails(125, &words);
    lab.ampoule.output(&["save", "box:1"]).fails(125, &words);
}
