//! `ampoule image prune`, and which images `image ls` shows.

use std::fs;

use crate::lab::{Lab, layer, listing};

#[test]
fn only_what_no_name_means_goes() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let old = lab.store().get("box:1").unwrap().id;
    let other = lab.file("other.tar", &layer(&[("other", b"other")]));
    let again = lab.pack("again.tar", &["--name", "box:1"], &[&other]);
    lab.load(&again).gives(0, "Loaded image: box:1\n");
    let list = |filter: &str| lab.ampoule.ok(&["images", "-q", "--filter", filter]);
    assert_eq!(list("dangling=true"), format!("{}\n", &old.hex()[..12]));
    assert_eq!(list("dangling=false").lines().count(), 1);
    assert_eq!(list("reference=bo?"), list("dangling=false"));
    assert_eq!(list("reference=ba*"), "");
    lab.ampoule.output(&["images", "--filter", "x=y"]).fails(125, &["reference=PATTERN"]);

    lab.ampoule.output(&["image", "prune"]).fails(125, &["give -f"]);
    let gone = lab.ampoule.ok(&["image", "prune", "-f"]);
    assert!(
        gone.starts_with(&format!("Deleted Images:\nDeleted: {old}\n\nTotal reclaimed space: "))
    );
    assert_eq!(lab.ampoule.ok(&["image", "prune", "-f"]), "Total reclaimed space: 0B\n");
    assert_eq!(listing(&lab.path("store/blobs/sha256")).len(), 1);
    // A sandbox that uses an image keeps it.
    let held = lab.store().get("box:1").unwrap();
    assert_eq!(lab.ampoule.ok(&["image", "prune", "-af"]), "Total reclaimed space: 0B\n");
    drop(held);
    lab.ampoule.ok(&["image", "prune", "-af"]);
    assert_eq!(lab.ampoule.ok(&["images", "-q"]), "");
    assert!(listing(&lab.path("store/blobs/sha256")).is_empty());
}

#[test]
fn what_pulls_left_goes() {
    let lab = Lab::new();
    lab.load(&lab.small("box:1")).gives(0, "Loaded image: box:1\n");
    let hex = "0".repeat(64);
    for name in [format!("blobs/sha256/{hex}"), format!("downloads/{hex}.partial")] {
        fs::write(lab.path("store").join(name), [0; 1000]).unwrap();
    }
    let held = fs::File::create(lab.path(&format!("store/downloads/{hex}.lock"))).unwrap();
    held.lock().unwrap();
    // What is on its way stays.
    assert_eq!(lab.ampoule.ok(&["image", "prune", "-f"]), "Total reclaimed space: 1kB\n");
    assert_eq!(listing(&lab.path("store/downloads")).len(), 2);
    drop(held);
    assert_eq!(lab.ampoule.ok(&["image", "prune", "-f"]), "Total reclaimed space: 1kB\n");
    assert!(listing(&lab.path("store/downloads")).is_empty());
    assert_eq!(listing(&lab.path("store/blobs/sha256")).len(), 1);
    lab.ampoule.ok(&["save", "-o", "/dev/null", "box:1"]);
}
