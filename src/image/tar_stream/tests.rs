use proptest::prelude::*;

use super::super::limits::Limits;
use super::super::testing::{Item, archive};
use super::*;

/// An entry and its data.
type Read = (Entry, Vec<u8>);

fn read(bytes: &[u8]) -> Result<Vec<Read>, TarError> {
    let mut budget = Budget::new(Limits::default(), std::path::Path::new("/"));
    let mut stream = TarStream::new(HashReader::counting(bytes));
    let mut entries = Vec::new();
    while let Some(entry) = stream.next(&mut budget)? {
        let mut data = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match stream.read_data(&mut buffer)? {
                0 => break,
                read => data.extend(&buffer[..read]),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn only(item: Item) -> Read {
    let mut entries = read(&archive([item])).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

#[test]
fn what_the_tar_crate_writes_is_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_uid(5_000_000);
    header.set_mtime(1_700_000_000);
    let long = "long/".repeat(60) + "name";
    builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let target = "target/".repeat(50);
    builder.append_link(&mut link, "link", &target).unwrap();
    let entries = read(&builder.into_inner().unwrap()).unwrap();
    let [(file, data), (link, _)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((&*file.path, &**data), (long.as_bytes(), &b"abc"[..]));
    assert_eq!((file.mode, file.uid, file.mtime), (0o4755, 5_000_000, (1_700_000_000, 0)));
    assert_eq!((link.kind, &*link.link), (Kind::Symlink, target.as_bytes()));
}

#[test]
fn extended_headers_override_the_header() {
    let (entry, data) = only(
        Item::file("short", "12345")
            .pax("path", b"pax/name")
            .pax("uid", b"4294967295")
            .pax("gid", b"7")
            .pax("mtime", b"1.000000001")
            .pax("SCHILY.xattr.user.x", b"\n"),
    );
    assert_eq!((&*entry.path, entry.uid, entry.gid), (&b"pax/name"[..], u32::MAX, 7));
    assert_eq!((entry.mtime, data.len()), ((1, 1), 5));
    assert_eq!(entry.xattrs, [(b"user.x".to_vec(), b"\n".to_vec())]);
}

#[test]
fn the_size_of_an_extended_header_counts() {
    let item = Item::file("a", "12345").pax("size", b"5").header(|header| header.set_size(0));
    let entries = read(&archive([item, Item::file("b", "x")])).unwrap();
    assert_eq!(entries[0].1, b"12345");
    assert_eq!(entries[1].0.path, b"b");
}

#[test]
fn sizes_of_what_has_no_data_are_not_believed() {
    let claim = |item: Item| item.header(|header| header.set_size(1024));
    let items =
        [claim(Item::directory("d")), claim(Item::hard_link("l", "d")), Item::file("f", "")];
    let entries = read(&archive(items)).unwrap();
    let names: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
    assert_eq!(names, [b"d", b"l", b"f"]);
}

#[test]
fn global_headers_say_nothing_about_files() {
    let global = Item::file("g", "14 path=other\n").header(|h| h.as_old_mut().linkflag = *b"g");
    let entries = read(&archive([global, Item::file("a", "")])).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].0.path, b"a");
}

#[test]
fn gnu_s_old_sparse_files_have_their_holes() {
    let item = Item::file("s", [1; 700]).header(|header| {
        *header = tar::Header::new_gnu();
        header.as_old_mut().name[0] = b's';
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(700);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 30);
        gnu.sparse[0].set_offset(512);
        gnu.sparse[0].set_length(512);
        gnu.sparse[1].set_offset(1 << 20);
        gnu.sparse[1].set_length(188);
        gnu.sparse[2].set_offset(1 << 30);
        gnu.sparse[2].set_length(0);
    });
    let (entry, data) = only(item);
    assert_eq!((entry.size, data.len()), (1 << 30, 700));
    let expected = [Extent { offset: 512, length: 512 }, Extent { offset: 1 << 20, length: 188 }];
    assert_eq!(entry.extents, expected);
}

#[test]
fn pax_sparse_files_have_their_holes() {
    let (entry, _) = only(
        Item::file("GNUSparseFile.1/s", [1; 10])
            .pax("GNU.sparse.map", b"0,4,100,6")
            .pax("GNU.sparse.name", b"s")
            .pax("GNU.sparse.size", b"200"),
    );
    let expected = [Extent { offset: 0, length: 4 }, Extent { offset: 100, length: 6 }];
    assert_eq!((&*entry.path, entry.size, &*entry.extents), (&b"s"[..], 200, &expected[..]));
    let mut data = b"2\n0\n4\n100\n6\n".to_vec();
    data.resize(512, 0);
    data.extend(b"aaaabbbbbb");
    let (entry, data) = only(
        Item::file("GNUSparseFile.1/s", &data)
            .pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.minor", b"0")
            .pax("GNU.sparse.name", b"s")
            .pax("GNU.sparse.realsize", b"200"),
    );
    assert_eq!((&*entry.path, entry.size, &*entry.extents), (&b"s"[..], 200, &expected[..]));
    assert_eq!(data, b"aaaabbbbbb");
}

#[test]
fn lying_sparse_maps_are_refused() {
    for (map, size) in
        [("0,11", "200"), ("0,9", "200"), ("0,10", "9"), ("5,5,0,5", "200"), ("1", "1")]
    {
        let item = Item::file("s", [1; 10])
            .pax("GNU.sparse.map", map.as_bytes())
            .pax("GNU.sparse.size", size.as_bytes());
        assert!(matches!(read(&archive([item])), Err(TarError::Sparse { .. })), "{map}");
    }
}

#[test]
fn a_cut_archive_is_called_so() {
    let whole = archive([Item::file("a", [1; 1000])]);
    for length in [1, 100, 511, 513, 1000, 1500] {
        let error = read(&whole[..length]).unwrap_err();
        assert!(matches!(error, TarError::Truncated { .. }), "{length}: {error}");
    }
    assert_eq!(read(&whole[..1536]).unwrap().len(), 1, "without the last blocks it is whole");
}

#[test]
fn what_is_no_archive_is_called_so() {
    assert!(matches!(read(&[b'x'; 2048]), Err(TarError::Header { position: 0 })));
    assert!(read(&[]).unwrap().is_empty());
    assert!(read(&[0; 1024]).unwrap().is_empty());
}

#[test]
fn extended_headers_have_a_bound() {
    for kind in [b'x', b'L', b'K', b'g'] {
        let item = Item::new(kind, "a").header(|header| header.set_size(1 << 40));
        assert!(matches!(read(&archive([item])), Err(TarError::TooLarge { .. })));
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let field = |item: Item| match read(&archive([item])) {
        Err(TarError::Field { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(Item::file("a", "").pax("uid", b"4294967296")), "uid");
    assert_eq!(field(Item::file("a", "").owner(0, 1 << 40)), "gid");
    assert_eq!(field(Item::new(b'3', "a").device(4096, 0)), "major device number");
    assert_eq!(field(Item::new(b'3', "a").device(0, 1 << 20)), "minor device number");
    assert_eq!(field(Item::file("a", "").header(|h| h.as_old_mut().mode = *b"rwxr-xr-")), "mode");
}

#[test]
fn unknown_types_are_refused_by_name() {
    let error = read(&archive([Item::new(b'V', "volume")])).unwrap_err();
    assert_eq!(error.to_string(), r#""volume" is an entry of the unknown type 'V'"#);
}

#[test]
fn numbers_are_octal_or_binary() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   644 \0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
    assert_eq!(number(b"00009\0"), None);
    assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(mut block in proptest::collection::vec(any::<u8>(), 512)) {
        let sum: u32 = block.iter().enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let _ = read(&block);
        block.resize(4096, b'1');
        let _ = read(&block);
    }
}

#[test]
fn a_size_at_the_end_of_all_numbers_does_not_wrap_around() {
    let bytes = archive([Item::file("f", "x").pax("size", b"18446744073709551615")]);
    let mut budget = Budget::new(Limits::default(), std::path::Path::new("/"));
    let mut stream = TarStream::new(HashReader::counting(&*bytes));
    assert_eq!(stream.next(&mut budget).unwrap().unwrap().size, u64::MAX);
    let next = stream.next(&mut budget).unwrap_err();
    assert!(matches!(next, TarError::Truncated { .. }), "{next}");
}

#[test]
fn headers_are_counted_as_data_are() {
    let comment = vec![b'c'; 60_000];
    let bytes = archive((0..20).map(|_| Item::file("f", "").pax("comment", &comment)));
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    let mut budget = Budget::new(limits, std::path::Path::new("/"));
    let mut stream = TarStream::new(HashReader::counting(&*bytes));
    let error = loop {
        match stream.next(&mut budget) {
            Ok(entry) => assert!(entry.is_some(), "the bound was passed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TarError::Limit(_)), "{error}");
}

#[test]
fn the_last_value_of_an_attribute_counts_among_any_number() {
    let many: Vec<_> = (0..20_000).map(|n| format!("SCHILY.xattr.user.{}", n % 10_000)).collect();
    let item = many.iter().enumerate().fold(Item::file("f", ""), |item, (at, name)| {
        item.pax(name, if at < 10_000 { b"old" } else { b"new" })
    });
    let (entry, _) = only(item);
    assert_eq!(entry.xattrs.len(), 10_000);
    assert!(entry.xattrs.iter().all(|(_, value)| value == b"new"));
}
