use proptest::prelude::*;

use super::super::limits::Limits;
use super::super::testing::{Files, Item, archive, flatten, flatten_within, read_image};

fn paths(files: &Files) -> Vec<&str> {
    files.keys().map(String::as_str).collect()
}

fn one(items: impl IntoIterator<Item = Item>) -> Files {
    flatten(&[archive(items)]).unwrap()
}

/// The message of a refused layer, with its sources.
fn refusal(items: impl IntoIterator<Item = Item>) -> String {
    let error = flatten(&[archive(items)]).unwrap_err();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

#[test]
fn every_kind_of_file_arrives_with_all_it_has() {
    let files = one([
        Item::directory("./").mode(0o1777).owner(3, 4),
        Item::directory("bin/"),
        Item::file("bin/su", "#!").mode(0o4755).owner(70_000, 4_000_000_000),
        Item::symlink("bin/sh", "su"),
        Item::new(b'3', "null").device(1, 3).mode(0o666),
        Item::new(b'4', "disk").device(259, 70_000),
        Item::new(b'6', "fifo").mode(0o600),
        Item::file("time", "").pax("mtime", b"-1.75"),
        Item::file("cap", "x").pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n\0="),
    ]);
    let file = |path: &str| &files[path];
    assert_eq!((file("/").mode, file("/").owner, file("/").links), (0o041_777, (3, 4), 3));
    assert_eq!((file("/bin/su").mode, file("/bin/su").owner), (0o104_755, (70_000, 4_000_000_000)));
    assert_eq!((file("/bin/sh").mode, &*file("/bin/sh").data), (0o120_777, &b"su"[..]));
    assert_eq!((file("/null").mode, file("/null").device), (0o020_666, Some((1, 3))));
    assert_eq!((file("/disk").mode, file("/disk").device), (0o060_644, Some((259, 70_000))));
    assert_eq!(file("/fifo").mode, 0o010_600);
    assert_eq!(file("/time").mtime, (-2, 250_000_000));
    assert_eq!(file("/cap").xattrs[&b"security.capability"[..]], b"\x01\0\0\x02\n\0=");
}

#[test]
fn a_directory_that_is_named_again_keeps_what_is_in_it() {
    let files = flatten(&[
        archive([Item::directory("d").owner(1, 1), Item::file("d/a", "1")]),
        archive([Item::directory("d").mode(0o700).owner(2, 2), Item::file("d/b", "2")]),
    ]);
    let files = files.unwrap();
    assert_eq!(paths(&files), ["/", "/d", "/d/a", "/d/b"]);
    assert_eq!((files["/d"].mode, files["/d"].owner), (0o040_700, (2, 2)));
}

#[test]
fn files_and_directories_take_each_other_s_place() {
    let below = archive([Item::file("a/x/y", ""), Item::file("b", ""), Item::symlink("c", "a")]);
    let above = archive([Item::file("a", "1"), Item::file("b/z", ""), Item::directory("c")]);
    let error = flatten(&[below.clone(), above]).unwrap_err();
    assert!(error.to_string().contains("b/z"), "a file is no directory: {error}");
    let above = archive([Item::file("a", "1"), Item::directory("b"), Item::directory("c")]);
    assert_eq!(paths(&flatten(&[below, above]).unwrap()), ["/", "/a", "/b", "/c"]);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let below = archive([
        Item::file("a", "old"),
        Item::file("d/x", "old"),
        Item::file("d/sub/y", "old"),
        Item::file("e/x", "old"),
    ]);
    let items = || {
        [
            Item::file("a", "new"),
            Item::file("d/sub/new", "new"),
            Item::new(b'0', ".wh.a"),
            Item::new(b'0', ".wh.d"),
            Item::new(b'0', "e/.wh.x"),
            Item::new(b'0', ".wh.missing"),
            Item::new(b'0', "missing/.wh.x"),
        ]
    };
    let mut backwards: Vec<_> = items().into_iter().collect();
    backwards.reverse();
    for above in [archive(items()), archive(backwards)] {
        let files = flatten(&[below.clone(), above]).unwrap();
        assert_eq!(paths(&files), ["/", "/a", "/d", "/d/sub", "/d/sub/new", "/e"]);
        assert_eq!(files["/a"].data, b"new");
    }
}

#[test]
fn an_opaque_directory_hides_all_that_is_below_wherever_it_stands() {
    let below = archive([
        Item::file("d/x", "old"),
        Item::file("d/sub/y", "old"),
        Item::file("d/sub/deep/z", "old"),
        Item::file("e", "old"),
    ]);
    let items = || {
        [
            Item::directory("d").owner(5, 5),
            Item::file("d/x", "new"),
            Item::directory("d/sub"),
            Item::new(b'0', "d/.wh..wh..opq"),
        ]
    };
    let mut backwards: Vec<_> = items().into_iter().collect();
    backwards.reverse();
    for above in [archive(items()), archive(backwards)] {
        let files = flatten(&[below.clone(), above]).unwrap();
        assert_eq!(paths(&files), ["/", "/d", "/d/sub", "/d/x", "/e"]);
        assert_eq!((&*files["/d/x"].data, files["/d"].owner), (&b"new"[..], (5, 5)));
    }
}

#[test]
fn whiteouts_follow_links_on_their_way_within_the_root() {
    let below = archive([Item::file("real/x", ""), Item::symlink("d", "/../../real")]);
    let above = archive([Item::new(b'0', "d/.wh.x")]);
    assert_eq!(paths(&flatten(&[below, above]).unwrap()), ["/", "/d", "/real"]);
}

#[test]
fn what_aufs_kept_for_itself_is_no_file() {
    let files = one([
        Item::directory(".wh..wh.plnk"),
        Item::file(".wh..wh.plnk/1.2", ""),
        Item::file(".wh..wh.aufs", ""),
    ]);
    assert_eq!(paths(&files), ["/"]);
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        let text = refusal([Item::directory("d"), Item::new(b'0', name)]);
        assert_eq!(text, format!("the entry {name:?} is refused: it is a whiteout of nothing"));
    }
}

#[test]
fn hard_links_share_a_file_across_layers_and_outlive_its_first_name() {
    let files = flatten(&[
        archive([Item::file("a", "data").owner(1, 1), Item::hard_link("b", "a").owner(1, 1)]),
        archive([Item::hard_link("c", "/b").owner(2, 2), Item::file("a", "other")]),
        archive([Item::new(b'0', ".wh.b"), Item::hard_link("dir/d", "./c").mode(0o600)]),
    ]);
    let files = files.unwrap();
    assert_eq!(paths(&files), ["/", "/a", "/c", "/dir", "/dir/d"]);
    assert_eq!(&*files["/a"].data, b"other");
    assert_eq!((&*files["/c"].data, files["/c"].links), (&b"data"[..], 2));
    assert_eq!((files["/c"].mode, files["/c"].owner), (0o100_600, (0, 0)));
    assert_eq!(files["/c"], files["/dir/d"]);
}

#[test]
fn a_hard_link_may_name_a_symbolic_link_but_no_directory() {
    let files = one([Item::symlink("a", "/nowhere"), Item::hard_link("b", "a")]);
    assert_eq!((files["/b"].mode & 0o170_000, files["/b"].inode), (0o120_000, files["/a"].inode));
    assert!(refusal([Item::directory("d"), Item::hard_link("b", "d")]).contains("is a directory"));
    assert!(refusal([Item::hard_link("b", "/")]).contains("is a directory"));
    assert!(refusal([Item::hard_link("b", "a")]).contains(r#""a", which does not exist"#));
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    let files = one([Item::file("a", "data"), Item::hard_link("a", "a")]);
    assert_eq!((&*files["/a"].data, files["/a"].links), (&b"data"[..], 1));
}

#[test]
fn names_outside_the_root_are_refused_by_name() {
    for name in ["../x", "a/../../x", "./../x", "..", "../../../../etc/passwd"] {
        let text = refusal([Item::file(name, "")]);
        assert_eq!(text, format!("the entry {name:?} is refused: it lies outside the root"));
        assert!(refusal([Item::hard_link("a", name)]).contains("outside the root"), "{name}");
        assert!(refusal([Item::directory(name)]).contains("outside the root"), "{name}");
    }
}

#[test]
fn absolute_names_mean_the_root_of_the_image() {
    let files = one([
        Item::file("/etc/passwd", "1"),
        Item::file("/../x", "2"),
        Item::file("a//./b/../c", "3"),
    ]);
    assert_eq!(paths(&files), ["/", "/a", "/a/c", "/etc", "/etc/passwd", "/x"]);
}

#[test]
fn links_on_the_way_stay_in_the_image() {
    let files = one([
        Item::symlink("up", "../../../.."),
        Item::symlink("abs", "/etc"),
        Item::symlink("dangling", "not/there"),
        Item::file("up/tmp/x", "1"),
        Item::file("abs/shadow", "2"),
        Item::file("dangling/y", "3"),
    ]);
    assert_eq!(&*files["/tmp/x"].data, b"1");
    assert_eq!(&*files["/etc/shadow"].data, b"2");
    assert_eq!(&*files["/not/there/y"].data, b"3");
}

#[test]
fn links_without_end_and_paths_through_files_are_refused() {
    let text = refusal([Item::symlink("a", "b"), Item::symlink("b", "a"), Item::file("a/x", "")]);
    assert!(text.contains("40 symbolic links"), "{text}");
    let text = refusal([Item::file("f", ""), Item::file("f/x", "")]);
    assert!(text.contains(r#""f" in its path is not a directory"#), "{text}");
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    let long = "n".repeat(256);
    assert!(refusal([Item::file(&long, "")]).contains("longer than 255 bytes"));
    assert!(refusal([Item::file(&"d/".repeat(2100), "")]).contains("longer than 4095 bytes"));
    assert!(refusal([Item::file("a", "").pax("path", b"a\0b")]).contains("NUL byte"));
    assert!(refusal([Item::symlink("a", "")]).contains("symbolic link target"));
    assert!(refusal([Item::symlink("a", &"t".repeat(4096))]).contains("symbolic link target"));
    assert!(refusal([Item::file("./", "")]).contains("the root is not a directory"));
}

#[test]
fn links_cannot_make_paths_longer_than_they_may_be() {
    let step = "x".repeat(250);
    let deep = |n: usize| format!("l{n}/{step}/{step}/{step}");
    let mut items = vec![Item::symlink("l0", "/")];
    for n in 0..6 {
        items.push(Item::directory(&deep(n)));
        items.push(Item::symlink(&format!("l{}", n + 1), &deep(n)));
    }
    assert!(refusal(items).contains("longer than 4095 bytes"));
}

#[test]
fn long_names_and_targets_come_through() {
    let path = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let target = "t".repeat(4095);
    let files = one([Item::file(&path, "x"), Item::symlink("l", &target)]);
    assert_eq!(&*files[&format!("/{path}")].data, b"x");
    assert_eq!(files["/l"].data, target.as_bytes());
}

#[test]
fn marks_of_overlayfs_are_left_out() {
    let files = one([Item::file("a", "")
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .pax("SCHILY.xattr.user.overlay.opaque", b"y")
        .pax("SCHILY.xattr.user.mine", b"1")]);
    assert_eq!(files["/a"].xattrs.keys().collect::<Vec<_>>(), [&b"user.mine".to_vec()]);
}

#[test]
fn attributes_beyond_the_format_are_refused() {
    let value = vec![b'v'; 65_536];
    let text = refusal([Item::file("a", "").pax("SCHILY.xattr.user.a", &value)]);
    assert!(text.contains("extended attributes are too large"), "{text}");
}

#[test]
fn each_bound_ends_a_layer() {
    let defaults = Limits::default();
    let files = || archive((0..20).map(|n| Item::file(&format!("d/{n}"), [7; 4096])));
    for (limits, what) in [
        (Limits { entries: 10, ..defaults.clone() }, "10 entries"),
        (Limits { metadata_bytes: 1000, ..defaults.clone() }, "1000 bytes of names"),
        (Limits { steps: 5, ..defaults.clone() }, "5 directory look-ups"),
        (Limits { unpacked_bytes: 9000, ..defaults.clone() }, "9000 bytes after decompression"),
        (Limits { image_bytes: 40_000, ..defaults.clone() }, "40000 bytes in the flattened image"),
        (Limits { reserve_bytes: u64::MAX, ..defaults }, "no space is left on the device"),
    ] {
        let error = flatten_within(&[files()], limits).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn the_same_layers_make_the_same_bytes() {
    let layers = [
        archive([Item::file("a", [1; 5000]), Item::file("b/c", "x"), Item::file("e", [2; 9000])]),
        archive([Item::new(b'0', ".wh.a"), Item::hard_link("d", "b/c")]),
    ];
    let first = flatten_within(&layers, Limits::default()).unwrap();
    assert_eq!(first, flatten_within(&layers, Limits::default()).unwrap());
    assert!(!first.windows(64).any(|bytes| bytes == [1; 64]), "removed data stay in the image");
}

/// An entry that may do anything to few names, so that they meet.
fn any_item() -> impl Strategy<Value = Item> {
    let name = prop::sample::select(vec![
        "a",
        "b",
        "a/b",
        "a/b/c",
        "../a",
        "/a",
        ".wh.a",
        "a/.wh.b",
        "a/.wh..wh..opq",
        "./",
        ".wh..",
        "b/../a",
        "a/b/.wh.c",
    ]);
    let target = prop::sample::select(vec!["a", "/b", "a/b", "..", "../../a", "/", "", "b/c/.."]);
    let kind = prop::sample::select(b"01234567\0".to_vec());
    let data = proptest::collection::vec(any::<u8>(), 0..5000);
    (kind, name, target, data, 0..0o10_000u32).prop_map(|(kind, name, target, data, mode)| {
        let item = if matches!(kind, b'0' | b'7' | 0) {
            Item::file(name, data).header(|header| header.as_old_mut().linkflag = [kind])
        } else {
            Item::new(kind, name).link(target)
        };
        item.mode(mode)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_entries_make_a_sound_image_or_an_error(
        layers in proptest::collection::vec(proptest::collection::vec(any_item(), 0..12), 1..4)
    ) {
        let layers: Vec<_> = layers.into_iter().map(archive).collect();
        // fsck.erofs and the other reader look at every image that is made.
        if let Ok(image) = flatten_within(&layers, Limits::default()) {
            for found in read_image(&image).values().filter(|found| found.mode >> 12 != 4) {
                prop_assert!(found.links > 0);
            }
        }
    }

    #[test]
    fn any_bytes_in_a_layer_are_survived(
        mut layer in proptest::collection::vec(any_item(), 1..6).prop_map(archive),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for (at, byte) in damage {
            let at = at.index(layer.len());
            layer[at] = byte;
        }
        let _ = flatten(&[layer]);
    }
}

#[test]
fn the_parts_of_symbolic_links_are_counted_as_steps() {
    // Each whiteout leads through 39 links of two thousand parts to nowhere.
    let links = (0..39)
        .map(|at| Item::symlink(&format!("l{at}"), &format!("l{}{}", at + 1, "/.".repeat(2000))));
    let whiteouts = (0..100).map(|_| Item::new(b'0', "l0/.wh.x"));
    let layer = archive(links.chain(whiteouts));
    let limits = Limits { steps: 1_000_000, ..Limits::default() };
    let error = flatten_within(&[layer], limits).unwrap_err();
    assert!(error.to_string().contains("directory look-ups"), "{error}");
}
