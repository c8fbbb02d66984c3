use std::os::unix::fs::MetadataExt;

use super::super::limits::{Budget, LimitError, Limits};
use super::super::testing::{Item, archive, flatten, flatten_within};
use super::super::tree::Tree;
use super::*;

#[test]
fn files_of_all_sizes_around_the_block_come_back() {
    let sizes = [0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 8192, 100_000];
    let data = |size: usize| (0..=250).cycle().take(size).collect::<Vec<u8>>();
    let files = flatten(&[archive(sizes.map(|size| Item::file(&size.to_string(), data(size))))]);
    let files = files.unwrap();
    for size in sizes {
        assert_eq!(files[&format!("/{size}")].data, data(size), "{size}");
    }
}

#[test]
fn ends_of_files_find_room_beside_attributes_of_all_sizes() {
    let xattr = |bytes: usize| vec![b'x'; bytes];
    let sizes = [1, 100, 1900, 1950, 2000, 4000, 4100, 9000, 65_535];
    let items = sizes.map(|size| {
        Item::file(&size.to_string(), [b'd'; 2048]).pax("SCHILY.xattr.user.a", &xattr(size))
    });
    let files = flatten(&[archive(items)]).unwrap();
    for size in sizes {
        let file = &files[&format!("/{size}")];
        assert_eq!((file.data.len(), &file.xattrs[&b"user.a"[..]]), (2048, &xattr(size)), "{size}");
    }
}

#[test]
fn large_directories_are_sorted_with_their_dots() {
    let names: Vec<_> = (0..3000).map(|n| format!("!-{n}-{}", "n".repeat(n % 200))).collect();
    let items = names.iter().map(|name| Item::file(&format!("d/{name}"), name));
    let files = flatten(&[archive(items.chain([Item::directory("d/.!"), Item::directory("d/~")]))]);
    let files = files.unwrap();
    assert_eq!(files.len(), names.len() + 4);
    assert_eq!(files["/d"].links, 4);
    for name in &names {
        assert_eq!(files[&format!("/d/{name}")].data, name.as_bytes());
    }
}

#[test]
fn symbolic_links_of_all_lengths_come_back() {
    let lengths = [1, 59, 60, 2047, 2048, 2049, 4095];
    let target = |length: usize| "t".repeat(length);
    let items = lengths.map(|length| Item::symlink(&length.to_string(), &target(length)));
    let files = flatten(&[archive(items)]).unwrap();
    for length in lengths {
        assert_eq!(files[&format!("/{length}")].data, target(length).as_bytes());
    }
}

#[test]
fn holes_take_no_room_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let image = std::fs::File::create_new(&path).unwrap();
    let tails = tempfile::tempfile_in(folder.path()).unwrap();
    let mut budget = Budget::new(Limits::default(), folder.path());
    let mut data = DataWriter::new(image, tails).unwrap();
    let size = 1 << 30;
    let mut file = data.begin(size + 5, 0, &budget).unwrap();
    file.hole_to(1 << 20, &mut budget).unwrap();
    file.write(b"data", &mut budget).unwrap();
    let content = file.finish(&mut budget).unwrap();
    assert_eq!((content.size, content.tail), (size + 5, Some(0)));
    data.finish(&Tree::default(), [0; 16], &mut budget).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.len() > size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[test]
fn more_than_was_announced_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = || tempfile::tempfile_in(folder.path()).unwrap();
    let mut budget = Budget::new(Limits::default(), folder.path());
    let mut data = DataWriter::new(temporary(), temporary()).unwrap();
    assert!(data.begin(3, 0, &budget).unwrap().write(b"four", &mut budget).is_err());
    let limit = LimitError::Exceeded { what: "bytes in the flattened image", limit: 8 << 40 };
    let error = data.begin(u64::MAX, 0, &budget).unwrap_err();
    assert!(matches!(error, WriteError::Limit(found) if found == limit));
}

#[test]
fn sparse_files_read_as_zeroes_between_their_data() {
    let item = Item::file("s", "headtail")
        .pax("GNU.sparse.map", b"0,4,300000,4")
        .pax("GNU.sparse.size", b"400001");
    let image = flatten_within(&[archive([item])], Limits::default()).unwrap();
    let files = super::super::testing::read_image(&image);
    let mut expected = vec![0; 400_001];
    expected[..4].copy_from_slice(b"head");
    expected[300_000..300_004].copy_from_slice(b"tail");
    assert!(files["/s"].data == expected);
}
