//! The device as a driver meets it, with files of this host behind it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod client;
mod escapes;
mod hostile;
mod shares;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use self::client::*;
use super::{Fs, FsError};
use crate::vmm::config::{Export, FsConfig, Share};
use crate::vmm::devices::virtio::{DeviceState, SaveError, VirtioDevice};
use crate::vmm::host::{Host, Opened};

/// A directory with a file in it.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    folder
}

#[test]
fn a_driver_reads_and_writes_files_of_the_host() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let node = client.lookup(ROOT, "file");
    let attr = client.send(GETATTR, node, &longs(&[0, 0])).unwrap();
    // Behind how long they hold, for 16 bytes: inode number and size.
    let meta = fs::metadata(folder.path().join("file")).unwrap();
    assert_eq!((long(&attr, 16), long(&attr, 24)), (meta.ino(), 7));
    let handle = client.open(node, libc::O_RDWR);
    assert_eq!(client.read(node, handle, 100).unwrap(), b"content");
    assert_eq!(word(&client.write(node, handle, b"CON").unwrap(), 0), 3);
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"CONtent");
    let metrics = client.fs.metrics();
    assert_eq!((metrics.read_bytes.get(), metrics.written_bytes.get()), (7, 3));
    // What the host does is seen at once, but for what the guest itself remembers.
    fs::rename(folder.path().join("file"), folder.path().join("other")).unwrap();
    assert_eq!(client.send(LOOKUP, ROOT, &cstr("file")), Err(libc::ENOENT));
    assert_eq!(client.lookup(ROOT, "other"), node);
}

#[test]
fn new_files_are_the_guests_users_with_the_mode_that_was_asked_for() {
    let folder = folder();
    // Only its owner may write here, and the guest's kernel has found that the user may: it knows
    // more of it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    client.user = 1234;
    let create = words(&[libc::O_RDWR.cast_unsigned(), 0o104_775, 0o002, 0]);
    client.send(CREATE, ROOT, &[create, cstr("new")].concat()).unwrap();
    client.send(MKDIR, ROOT, &[words(&[0o1777, 0o022]), cstr("dir")].concat()).unwrap();
    client.send(SYMLINK, ROOT, &[cstr("link"), cstr("/etc/passwd")].concat()).unwrap();
    for (name, mode) in [("new", 0o104_775), ("dir", 0o041_755), ("link", 0o120_777)] {
        let meta = fs::symlink_metadata(folder.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode()), (1234, 1234, mode), "{name}");
    }
}

#[test]
fn a_directory_is_listed_whole_in_parts_of_any_size() {
    let folder = folder();
    for i in 0..300 {
        fs::write(folder.path().join(format!("number {i}")), "").unwrap();
    }
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let handle = long(&client.send(OPENDIR, ROOT, &words(&[0, 0])).unwrap(), 0);
    for size in [48, 512, 4096] {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let body = [longs(&[handle, offset]), words(&[size, 0]), longs(&[0, 0])].concat();
            let part = client.send_with_room(READDIR, ROOT, &body, 16 + size).unwrap();
            let mut rest = part.as_slice();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                offset = long(rest, 8);
                let len = word(rest, 16) as usize;
                names.push(String::from_utf8(rest[24..24 + len].to_vec()).unwrap());
                rest = &rest[(24 + len).next_multiple_of(8)..];
            }
        }
        names.sort();
        assert_eq!(names.len(), 303, "{size}");
        assert_eq!(names[..3], [".", "..", "file"]);
        names.dedup();
        assert_eq!(names.len(), 303, "{size}");
    }
}

#[test]
fn several_shares_are_one_tree() {
    let (one, two) = (folder(), folder());
    let share = |path: &std::path::Path, read_only| Share { path: path.into(), read_only };
    let shares = [
        ("rw".to_owned(), share(one.path(), false)),
        ("ro".to_owned(), share(one.path(), true)),
        ("single".to_owned(), share(&two.path().join("file"), false)),
    ];
    let Some(mut client) = Client::mounted(Export::Tree(shares.into())) else { return };
    let entry = client.send(LOOKUP, ROOT, &cstr("rw")).unwrap();
    // Its attributes begin at 40; their flags, at 84 of them, say that it is a mount point.
    assert_eq!(word(&entry, 40 + 84), 1);
    let (writable, read_only) = (long(&entry, 0), client.lookup(ROOT, "ro"));
    let mkdir = |name| [words(&[0o755, 0]), cstr(name)].concat();
    assert!(client.send(MKDIR, writable, &mkdir("new")).is_ok());
    assert_eq!(client.send(MKDIR, read_only, &mkdir("newer")), Err(libc::EROFS));
    assert_eq!(client.send(MKDIR, ROOT, &mkdir("top")), Err(libc::EROFS));
    assert!(one.path().join("new").is_dir());
    // The same file by either name: what may be done with it goes by the name.
    let (a, b) = (client.lookup(writable, "file"), client.lookup(read_only, "file"));
    let flags = words(&[libc::O_RDWR.cast_unsigned(), 0]);
    assert_eq!(client.send(OPEN, b, &flags), Err(libc::EROFS));
    assert!(client.send(OPEN, a, &flags).is_ok());
    let single = client.lookup(ROOT, "single");
    let handle = client.open(single, libc::O_WRONLY | libc::O_TRUNC);
    client.write(single, handle, b"!").unwrap();
    assert_eq!(fs::read(two.path().join("file")).unwrap(), b"!");
    assert_eq!(fs::read(one.path().join("file")).unwrap(), b"content");
}

#[test]
fn what_cannot_be_shared_is_named() {
    let folder = folder();
    let error = |tag: &str, export| {
        Fs::new(
            &FsConfig { tag: tag.into(), export: Some(export), opened: Opened::default() },
            &Host::default(),
        )
        .unwrap_err()
    };
    assert!(matches!(error("", directory(folder.path(), false)), FsError::Tag(_)));
    assert!(matches!(error(&"x".repeat(37), directory(folder.path(), false)), FsError::Tag(_)));
    if device(Some(directory(folder.path(), false))).is_none() {
        return;
    }
    let missing = error("t", directory(&folder.path().join("missing"), false));
    assert!(matches!(missing, FsError::Path { .. }), "{missing}");
    let file = error("t", directory(&folder.path().join("file"), false));
    assert!(matches!(file, FsError::NotADirectory { .. }), "{file}");
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        let share = Share { path: folder.path().into(), read_only: true };
        let error = error("t", Export::Tree([(name.to_owned(), share)].into()));
        assert!(matches!(error, FsError::Name { .. }), "{error}");
    }
}

#[test]
fn a_slot_has_a_tag_and_nothing_to_mount() {
    let slot = Fs::new(
        &FsConfig { tag: "rootfs".into(), export: None, opened: Opened::default() },
        &Host::default(),
    )
    .unwrap();
    let mut config = [0xff; 44];
    slot.read_config(0, &mut config);
    assert_eq!(config[..40], [b"rootfs".as_slice(), &[0; 30], &[1, 0, 0, 0]].concat());
    assert_eq!(config[40..], [0; 4]);
    let mut client = Client::active(slot);
    assert_eq!(client.init(), Err(libc::ENODEV));
    client.fs.check_savable().unwrap();
}

#[test]
fn only_what_is_not_mounted_can_be_saved_and_goes_on_with_its_tag() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let mounted = SaveError::Mounted { tag: "t".into() };
    assert_eq!(client.fs.check_savable(), Err(mounted));
    client.send(DESTROY, 0, &[]).unwrap();
    client.fs.check_savable().unwrap();
    assert_eq!(client.fs.positions().unwrap()[1].next_used, 2);
    let saved = client.fs.save();
    assert_eq!(saved, DeviceState::Fs { tag: "t".into() });
    let config = FsConfig {
        tag: "u".into(),
        export: Some(directory(folder.path(), false)),
        opened: Opened::default(),
    };
    let mut plugged = Fs::new(&config, &Host::default()).unwrap();
    plugged.restore(&saved).unwrap();
    let mut tag = [0; 2];
    plugged.read_config(0, &mut tag);
    assert_eq!(&tag, b"t\0");
    assert!(plugged.restore(&DeviceState::Rng).is_err());
    assert!(Client::active(plugged).init().is_ok());
}

#[test]
fn a_paused_device_answers_when_it_goes_on() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    client.fs.pause();
    let header = [words(&[56, GETATTR]), longs(&[77, ROOT]), words(&[0; 4]), longs(&[0, 0])];
    client.driver.write(0x20_0000, &header.concat());
    client.driver.offer(&[
        crate::vmm::devices::virtio::testing::readable(0x20_0000, 56),
        crate::vmm::devices::virtio::testing::writable(0x21_0000, ROOM),
    ]);
    client.kick();
    assert!(!client.wait_for_interrupt(50));
    assert!(client.driver.used().is_empty());
    client.fs.resume();
    assert_eq!(client.wait(), 120);
}

#[test]
fn links_and_attributes_are_the_hosts() {
    let folder = folder();
    symlink("target", folder.path().join("link")).unwrap();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let node = client.lookup(ROOT, "file");
    client.send(LINK, ROOT, &[longs(&[node]), cstr("second")].concat()).unwrap();
    assert_eq!(fs::metadata(folder.path().join("file")).unwrap().nlink(), 2);
    let set = [words(&[3, 0]), cstr("user.colour"), b"red".to_vec()].concat();
    match client.send(SETXATTR, node, &set) {
        // A tmpfs of an older kernel has none.
        Err(libc::EOPNOTSUPP) => return,
        set => set.unwrap(),
    };
    let get = |size: u32| [words(&[size, 0]), cstr("user.colour")].concat();
    assert_eq!(client.send(GETXATTR, node, &get(100)).unwrap(), b"red");
    assert_eq!(word(&client.send(GETXATTR, node, &get(0)).unwrap(), 0), 3);
    // 4 GiB are neither needed nor taken.
    assert_eq!(client.send(GETXATTR, node, &get(u32::MAX)).unwrap(), b"red");
    client.send(REMOVEXATTR, node, &cstr("user.colour")).unwrap();
    assert_eq!(client.send(GETXATTR, node, &get(100)), Err(libc::ENODATA));
}

/// `struct fuse_open_out`: the handle, then the flags.
fn open_flags(client: &mut Client, node: u64, flags: i32) -> u32 {
    word(&client.send(OPEN, node, &words(&[flags.cast_unsigned(), 0])).unwrap(), 8)
}

#[test]
fn a_guest_sends_no_flush_for_what_the_host_has_already() {
    const DIRECT_IO: u32 = 1;
    const NOFLUSH: u32 = 1 << 5;
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let known = fs::File::open(folder.path()).unwrap();
    let known = super::local::is_local(std::os::fd::AsFd::as_fd(&known));
    let flush = if known { NOFLUSH } else { 0 };
    let node = client.lookup(ROOT, "file");
    // Only what nobody can map is kept out of the guest's cache.
    assert_eq!(open_flags(&mut client, node, libc::O_RDONLY), NOFLUSH);
    assert_eq!(open_flags(&mut client, node, libc::O_RDWR), flush);
    assert_eq!(open_flags(&mut client, node, libc::O_WRONLY), DIRECT_IO | flush);
    let create = words(&[libc::O_WRONLY.cast_unsigned(), 0o100_644, 0, 0]);
    let created = client.send(CREATE, ROOT, &[create, cstr("new")].concat()).unwrap();
    // Behind `struct fuse_entry_out` of 128 bytes.
    assert_eq!(word(&created, 128 + 8), DIRECT_IO | flush);
    // /proc is none of those that are known.
    let tree =
        Export::Tree([("p".to_owned(), Share { path: "/proc".into(), read_only: false })].into());
    let Some(mut client) = Client::mounted(tree) else { return };
    let proc = client.lookup(ROOT, "p");
    let own = client.lookup(proc, &std::process::id().to_string());
    let node = client.lookup(own, "comm");
    assert_eq!(open_flags(&mut client, node, libc::O_RDWR), 0);
    assert_eq!(open_flags(&mut client, node, libc::O_RDONLY), NOFLUSH);
}

#[test]
fn a_write_of_another_user_takes_set_user_id_bits_away() {
    const WRITE_KILL_PRIV: u32 = 1 << 2;
    let folder = folder();
    let path = folder.path().join("file");
    let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    let node = client.lookup(ROOT, "file");
    let handle = client.open(node, libc::O_WRONLY);
    let write = |flags: u32| {
        let rest = [words(&[1, flags]), longs(&[0]), words(&[1, 0]), b"!".to_vec()];
        [longs(&[handle, 0]), rest.concat()].concat()
    };
    // The guest's kernel says whose writes do.
    for (flags, left) in [(0, 0o6755), (WRITE_KILL_PRIV, 0o755)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        client.send(WRITE, node, &write(flags)).unwrap();
        assert_eq!(mode(), left);
    }
}

#[test]
fn messages_are_counted_by_their_opcodes() {
    let folder = folder();
    let Some(mut client) = Client::mounted(directory(folder.path(), false)) else { return };
    client.lookup(ROOT, "file");
    client.lookup(ROOT, "file");
    assert_eq!(client.send(4711, ROOT, &[]), Err(libc::ENOSYS));
    let metrics = client.fs.metrics();
    let counts = [INIT, LOOKUP, OPEN, 4711].map(|opcode| metrics.opcodes.get(opcode));
    assert_eq!(counts, [1, 2, 0, 1]);
    let json = serde_json::to_value(&metrics.opcodes).unwrap();
    assert_eq!(json, serde_json::json!({"0": 1, "1": 2, "26": 1}));
}
