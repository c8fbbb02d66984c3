use super::*;
use crate::image::limits::Limits;
use crate::image::testing::{Item, archive as tar};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A destination with a neighbour.
fn destination() -> (tempfile::TempDir, PathBuf) {
    let all = tempfile::tempdir().unwrap();
    fs::create_dir(all.path().join("outside")).unwrap();
    let destination = all.path().join("destination");
    fs::create_dir(&destination).unwrap();
    (all, destination)
}

fn to(destination: &Path, top: &str, bytes: &[u8]) -> Result<Skipped, ArchiveError> {
    let directory = File::open(destination).unwrap();
    let mut budget = Budget::new(Limits::default(), destination);
    extract(&mut { bytes }, directory.into(), top, false, &mut budget)
}

#[test]
fn what_a_guest_sends_stays_in_the_directory() {
    let (all, destination) = destination();
    let link = |target: &str| vec![Item::symlink("link", target), Item::file("link/x", "no")];
    let outside = all.path().join("outside");
    for items in [
        link("../outside"),
        link(outside.to_str().unwrap()),
        link("."),
        vec![Item::file("../x", "no")],
        vec![Item::file("a/../../x", "no")],
        vec![Item::hard_link("x", "../outside")],
        vec![Item::hard_link("x", "/etc/passwd")],
        vec![Item::symlink("y", "/etc/passwd"), Item::hard_link("x", "y")],
        vec![Item::symlink("empty", "")],
    ] {
        let bytes = tar(items);
        assert!(to(&destination, ".", &bytes).is_err());
        assert!(to(&destination, "top", &bytes).is_err());
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_dir(all.path()).unwrap().count(), 2);
    // From the root on is from the directory on.
    to(&destination, ".", &tar(vec![Item::file("/etc/passwd", "yes")])).unwrap();
    assert_eq!(fs::read_to_string(destination.join("etc/passwd")).unwrap(), "yes");
}

#[test]
fn nothing_comes_with_more_rights_than_the_caller_has() {
    let (_all, destination) = destination();
    let owner = fs::metadata(&destination).unwrap().uid();
    let items = vec![
        Item::file("sh", "x").mode(0o6755).owner(owner.into(), 0).pax("SCHILY.xattr.user.x", b"1"),
        Item::new(b'3', "null").device(1, 3),
        Item::new(b'4', "disk").device(8, 0),
        Item::directory("d").mode(0o7777),
    ];
    let skipped = to(&destination, "top", &tar(items)).unwrap();
    assert_eq!(skipped, Skipped { first: Some("null".into()), devices: 2 });
    let mode = |name: &str| {
        fs::metadata(destination.join("top").join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("sh"), mode("d")), (0o755, 0o1777));
    assert_eq!(fs::read_dir(destination.join("top")).unwrap().count(), 2);
}

#[test]
fn a_huge_file_of_holes_takes_no_room() {
    let (_all, destination) = destination();
    let size = 1u64 << 40;
    let map = format!("1\n{}\n1\n", size - 1);
    let mut data = map.into_bytes();
    data.resize(512, 0);
    data.push(b'x');
    let sparse = Item::file("GNUSparseFile.0/x", data)
        .pax("GNU.sparse.major", b"1")
        .pax("GNU.sparse.minor", b"0")
        .pax("GNU.sparse.name", b"huge")
        .pax("GNU.sparse.realsize", size.to_string().as_bytes());
    to(&destination, ".", &tar(vec![sparse])).unwrap();
    let made = fs::metadata(destination.join("huge")).unwrap();
    assert_eq!(made.len(), size);
    assert!(made.blocks() < 1000);
}

#[test]
fn what_is_cut_short_is_an_error() {
    let (_all, destination) = destination();
    let bytes = tar(vec![Item::file("x", vec![1; 2000])]);
    let error = to(&destination, ".", &bytes[..1000]).unwrap_err();
    assert!(super::super::truncated(&error), "{error:?}");
}
