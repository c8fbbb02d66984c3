use super::super::{Contents, Extended, Owners, Packer};
use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const TAME: Rules = Rules { owners: false, set_ids: false, devices: false, attributes: false };

fn opened(path: &Path) -> OwnedFd {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty()).unwrap()
}

fn entry(kind: Kind, path: &str, link: &str) -> Entry {
    Entry {
        path: path.into(),
        link: link.into(),
        kind,
        mode: 0o6755,
        uid: 1,
        gid: 1,
        mtime: 1000,
        size: 4,
        xattrs: vec![("user.x".into(), b"y".to_vec())],
    }
}

fn put(place: &mut Place, entry: &Entry) -> Result<bool, PlaceError> {
    if entry.kind != Kind::File {
        return place.other(entry);
    }
    let mut file = place.file(entry)?;
    file.write_all(b"data").unwrap();
    place.seal(file, entry)?;
    Ok(true)
}

/// A destination with a neighbour that nobody is to write to.
fn destination() -> (tempfile::TempDir, PathBuf) {
    let all = tempfile::tempdir().unwrap();
    fs::create_dir(all.path().join("outside")).unwrap();
    fs::write(all.path().join("outside/file"), "kept").unwrap();
    let destination = all.path().join("destination");
    fs::create_dir(&destination).unwrap();
    (all, destination)
}

#[test]
fn what_is_packed_is_placed() {
    let (_all, destination) = destination();
    let source = tempfile::tempdir().unwrap();
    let path = |name: &str| source.path().join(name);
    fs::create_dir_all(path("d/e")).unwrap();
    fs::write(path("d/file"), "text").unwrap();
    fs::hard_link(path("d/file"), path("second")).unwrap();
    fs::write(path(&"long".repeat(40)), vec![5; 100_000]).unwrap();
    symlink("/no/such", path("link")).unwrap();
    fs::set_permissions(path("d/file"), fs::Permissions::from_mode(0o4641)).unwrap();
    fs::set_permissions(path("d"), fs::Permissions::from_mode(0o1555)).unwrap();
    let mut packer = Packer::new(Vec::new(), Contents::Files, Owners::Kept);
    packer.tree(opened(source.path()), b".".to_vec()).unwrap();
    let bytes = packer.finish().unwrap();

    let mut place = Place::directory(opened(&destination), TAME);
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut extended = Extended::default();
    for found in archive.entries().unwrap().raw(true) {
        let mut found = found.unwrap();
        let Some(entry) = Entry::read(&mut found, &mut extended).unwrap() else { continue };
        if entry.kind == Kind::File {
            let mut file = place.file(&entry).unwrap();
            io::copy(&mut found, &mut file).unwrap();
            place.seal(file, &entry).unwrap();
        } else {
            assert!(place.other(&entry).unwrap());
        }
    }
    place.finish().unwrap();
    let made = |name: &str| fs::symlink_metadata(destination.join(name)).unwrap();
    assert_eq!(fs::read_to_string(destination.join("d/file")).unwrap(), "text");
    // Without the right to become its owner.
    assert_eq!(made("d/file").mode() & 0o7777, 0o641);
    assert_eq!(made("d").mode() & 0o7777, 0o1555);
    assert_eq!(made("d").mtime(), fs::metadata(path("d")).unwrap().mtime());
    assert_eq!(made("d/file").ino(), made("second").ino());
    assert_eq!(made(&"long".repeat(40)).len(), 100_000);
    assert_eq!(fs::read_link(destination.join("link")).unwrap(), Path::new("/no/such"));
    fs::set_permissions(path("d"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(destination.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn links_do_not_lead_out() {
    let (all, destination) = destination();
    let outside = all.path().join("outside");
    symlink(&outside, destination.join("old")).unwrap();
    let mut place = Place::directory(opened(&destination), TAME);
    for (link, target) in [("up", "../outside"), ("there", outside.to_str().unwrap())] {
        assert!(put(&mut place, &entry(Kind::Symlink, link, target)).unwrap());
    }
    for link in ["up", "there", "old"] {
        for kind in [Kind::File, Kind::Directory, Kind::Fifo, Kind::Symlink] {
            let through = entry(kind, &format!("{link}/new"), "x");
            assert!(matches!(put(&mut place, &through), Err(PlaceError::File { .. })), "{link}");
            let deep = entry(kind, &format!("{link}/deeper/new"), "x");
            put(&mut place, &deep).unwrap_err();
        }
        let second = entry(Kind::HardLink, "second", &format!("{link}/file"));
        put(&mut place, &second).unwrap_err();
    }
    // A file in a link's place is no file at the end of the link.
    put(&mut place, &entry(Kind::File, "up", "")).unwrap();
    assert!(destination.join("up").symlink_metadata().unwrap().is_file());
    place.finish().unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
}

#[test]
fn names_that_lead_up_or_nowhere_are_refused() {
    let (all, destination) = destination();
    let mut place = Place::directory(opened(&destination), TAME);
    for path in ["../x", "a/../../x", "..", "a/..", "x\0y"] {
        for kind in [Kind::File, Kind::Directory, Kind::Symlink] {
            let refused = put(&mut place, &entry(kind, path, "t"));
            assert!(matches!(refused, Err(PlaceError::Name(_))), "{path} {refused:?}");
        }
    }
    // An absolute name is one below the directory.
    put(&mut place, &entry(Kind::File, "/etc/x", "")).unwrap();
    assert!(destination.join("etc/x").is_file());
    put(&mut place, &entry(Kind::File, ".", "")).unwrap_err();
    assert_eq!(fs::read_dir(all.path()).unwrap().count(), 2);
}

#[test]
fn a_second_name_is_only_for_what_came_along() {
    let (_all, destination) = destination();
    fs::write(destination.join("old"), "old").unwrap();
    let mut place = Place::directory(opened(&destination), TAME);
    let second = |target: &str| entry(Kind::HardLink, "second", target);
    for target in ["old", "none", ".", "../outside/file"] {
        put(&mut place, &second(target)).unwrap_err();
    }
    put(&mut place, &entry(Kind::File, "new", "")).unwrap();
    put(&mut place, &second("new")).unwrap();
    let metadata = fs::metadata(destination.join("second")).unwrap();
    assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (2, 0o755));
}

#[test]
fn directories_and_others_do_not_replace_each_other() {
    let (_all, destination) = destination();
    fs::create_dir(destination.join("d")).unwrap();
    fs::write(destination.join("f"), "").unwrap();
    let mut place = Place::directory(opened(&destination), TAME);
    let refused = put(&mut place, &entry(Kind::File, "d", "")).unwrap_err();
    assert_eq!(refused.to_string(), "cannot overwrite directory \"d\" with non-directory");
    let refused = put(&mut place, &entry(Kind::Directory, "f", "")).unwrap_err();
    assert_eq!(refused.to_string(), "cannot overwrite non-directory \"f\" with directory");
    put(&mut place, &entry(Kind::Symlink, "f", "d")).unwrap();
    put(&mut place, &entry(Kind::Directory, "d", "")).unwrap();
    put(&mut place, &entry(Kind::File, "d/x", "")).unwrap();
}

#[test]
fn devices_are_left_out_unless_they_are_wanted() {
    let (_all, destination) = destination();
    let null = entry(Kind::Character(1, 3), "null", "");
    let mut place = Place::directory(opened(&destination), TAME);
    assert!(!put(&mut place, &null).unwrap());
    assert!(!destination.join("null").exists());
    if nix::unistd::geteuid().is_root() {
        let rules = Rules { owners: true, set_ids: true, devices: true, attributes: true };
        let mut place = Place::directory(opened(&destination), rules);
        // Where the test may not make devices it is not ampoule that refuses.
        if put(&mut place, &null).is_ok_and(|made| made) {
            let made = fs::symlink_metadata(destination.join("null")).unwrap();
            assert_eq!((made.rdev(), made.uid(), made.mtime()), (0x103, 1, 1000));
        }
    }
}

#[test]
fn in_a_root_links_lead_where_they_do_for_it() {
    let (all, root) = destination();
    fs::create_dir_all(root.join("run/inner")).unwrap();
    symlink("/run", root.join("var-run")).unwrap();
    symlink("../outside", root.join("up")).unwrap();
    let mut place = Place::in_root(opened(&root), Path::new("/var-run"), TAME);
    put(&mut place, &entry(Kind::File, "inner/file", "")).unwrap();
    assert!(root.join("run/inner/file").is_file());
    let mut place = Place::in_root(opened(&root), Path::new("/"), TAME);
    put(&mut place, &entry(Kind::File, "up/new", "")).unwrap_err();
    put(&mut place, &entry(Kind::File, "var-run/new", "")).unwrap();
    let mut text = String::new();
    File::open(root.join("run/new")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "data");
    assert_eq!(fs::read_dir(all.path().join("outside")).unwrap().count(), 1);
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::File,
        Kind::Directory,
        Kind::Symlink,
        Kind::HardLink,
        Kind::Fifo,
        Kind::Character(1, 3),
    ])
}

proptest! {
    #[test]
    fn nothing_is_ever_made_or_changed_outside(
        entries in prop::collection::vec(
            (
                kinds(),
                prop::collection::vec("[ab]|\\.|\\.\\.|outside|", 1..5),
                prop::sample::select(vec!["a", "b", "..", "../outside", "../outside/file", "/", "a/b"]),
            ),
            1..12,
        ),
        in_root: bool,
    ) {
        let (all, destination) = destination();
        let before = fs::metadata(all.path().join("outside/file")).unwrap();
        let mut place = match in_root {
            true => Place::in_root(opened(&destination), Path::new(""), TAME),
            false => Place::directory(opened(&destination), TAME),
        };
        for (kind, path, link) in entries {
            let _ = put(&mut place, &entry(kind, &path.join("/"), link));
        }
        let _ = place.finish();
        prop_assert_eq!(fs::read_dir(all.path()).unwrap().count(), 2);
        prop_assert_eq!(fs::read_dir(all.path().join("outside")).unwrap().count(), 1);
        let after = fs::metadata(all.path().join("outside/file")).unwrap();
        prop_assert_eq!(
            (before.ino(), before.nlink(), before.mode(), before.ctime_nsec()),
            (after.ino(), after.nlink(), after.mode(), after.ctime_nsec())
        );
    }
}
