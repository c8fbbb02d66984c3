//! Disks that are full, and layers that are not what they were.

use std::fs;
use std::process::Command;

use ampoule::image::Digest;

use crate::fake::{Fake, Served};
use crate::lab::{Lab, layer};
use crate::real::Real;
use crate::support::{BIN, Finished, skip};

#[test]
fn a_pull_that_fills_the_disk_names_the_store_and_leaves_nothing() {
    let mounts = Command::new("unshare").args(["-m", "true"]).output();
    if !mounts.is_ok_and(|output| output.status.success()) {
        return skip("needs a mount namespace of its own (root)");
    }
    let image = Served::new(vec![layer(&[("big", &vec![7; 48 << 20])])]);
    let fake = Fake::with(&image, |_| None);
    // Room for no layer; for the layer and not for the file system of it.
    for size in ["90m", "130m"] {
        let lab = Lab::new();
        let script = "mkdir -p \"$1\" && mount -t tmpfs -o size=$4 none \"$1\" || exit 99
            \"$2\" --root \"$1\" pull \"$3\" > /dev/null; code=$?
            find \"$1\" -mindepth 1 -size +1000k -printf '%P\\n'
            \"$2\" --root \"$1\" image ls -q; exit $code";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", &lab.text("store"), BIN, &fake.name("box")]);
        let done = Finished::of(command.arg(size).output().unwrap());
        done.fails(125, &["no room", &lab.text("store"), "ampoule image rm"]);
        // What came whole may stay: the next pull need not fetch it.
        let whole = format!("blobs/sha256/{}\n", Digest::of(&image.layers[0]).hex());
        assert!(["", whole.as_str()].contains(&done.stdout.as_str()), "{done:?}");
    }
}

#[test]
fn a_damaged_layer_is_named_set_aside_and_fetched_again() {
    let lab = Lab::new();
    let shared = layer(&[("shared", &b"shared ".repeat(1000))]);
    let one = Served::new(vec![shared.clone()]);
    let two = Served::new(vec![shared.clone(), layer(&[("top", b"top")])]);
    let (first, second) = (Fake::with(&one, |_| None), Fake::with(&two, |_| None));
    lab.ampoule.ok(&["pull", &first.name("box")]);
    let digest = Digest::of(&shared);
    let blob = lab.path("store/blobs/sha256").join(digest.hex());
    let mut bytes = shared.clone();
    bytes[3000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let pulled = lab.ampoule.ok(&["pull", &second.name("box")]);
    let short = digest.hex()[..12].to_owned();
    assert!(pulled.contains(&format!("{short}: Damaged: set aside")), "{pulled}");
    assert_eq!(fs::read(&blob).unwrap(), shared);
    assert_eq!(fs::read(lab.path("store/damaged").join(digest.hex())).unwrap(), bytes);
    assert_eq!(second.count(&digest.hex()), 1);
}

#[test]
fn a_damaged_layer_is_not_given_on() {
    let lab = Lab::new();
    let registry = Real::plain(&lab.path("registry"));
    let name = registry.name("box:1");
    let archive = lab.small(&name);
    for verb in [&["push", &name][..], &["save", "-o", &lab.text("out.tar"), &name]] {
        lab.load(&archive).gives(0, &format!("Loaded image: {name}\n"));
        let blobs: Vec<_> = fs::read_dir(lab.path("store/blobs/sha256")).unwrap().collect();
        let [blob] = &blobs[..] else { panic!("{blobs:?}") };
        let blob = blob.as_ref().unwrap().path();
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::write(&blob, bad).unwrap();
        lab.ampoule.output(verb).fails(125, &["is damaged", "set aside", "store/damaged/"]);
        assert!(!lab.path("out.tar").exists() && !blob.exists());
        lab.ampoule.output(verb).fails(125, &["are not in the store: load or pull it again"]);
        // And by that it is whole again.
        lab.load(&archive).gives(0, &format!("Loaded image: {name}\n"));
        assert_eq!(fs::read(&blob).unwrap(), good);
        lab.ampoule.ok(verb);
        lab.ampoule.ok(&["image", "prune", "-f"]);
        assert!(fs::read_dir(lab.path("store/damaged")).unwrap().next().is_none());
    }
}
