//! A guest that tries to reach what is not shared, or to write what is not to be written.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use super::super::budget::Budget;
use super::super::export;
use super::super::guard::Guard;
use super::*;
use fuse_backend_rs::abi::fuse_abi::FsOptions;
use fuse_backend_rs::api::filesystem::{Context, FileSystem};

/// A shared folder beside a secret.
fn shared() -> (TempDir, std::path::PathBuf) {
    let folder = folder();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    let shared = folder.path().join("shared");
    fs::create_dir_all(shared.join("sub/subsub")).unwrap();
    fs::write(shared.join("file"), "content").unwrap();
    (folder, shared)
}

/// All that is below a folder, with what it holds.
fn contents(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let held = if kind.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        all.push(format!("{} {held}", path.display()));
        if kind.is_dir() {
            all.extend(contents(&path));
        }
    }
    all.sort();
    all
}

#[test]
fn no_name_leads_out_of_its_directory() {
    let (folder, path) = shared();
    let Some(mut client) = Client::mounted(directory(&path, false)) else { return };
    let before = contents(folder.path());
    let sub = client.lookup(ROOT, "sub");
    let file = client.lookup(ROOT, "file");
    for name in ["..", ".", "", "/etc/passwd", "../secret", "sub/..", "subsub/"] {
        for directory in [ROOT, sub] {
            let named = |body: Vec<u8>| [body, cstr(name)].concat();
            let both = |body: Vec<u8>, other| [body, cstr(name), cstr(other)].concat();
            let swapped = |body: Vec<u8>| [body, cstr("file"), cstr(name)].concat();
            let create = words(&[libc::O_RDWR.cast_unsigned(), 0o644, 0, 0]);
            for (opcode, body) in [
                (LOOKUP, named(vec![])),
                (UNLINK, named(vec![])),
                (RMDIR, named(vec![])),
                (MKDIR, named(words(&[0o755, 0]))),
                (MKNOD, named(words(&[0o100_644, 0, 0, 0]))),
                (CREATE, named(create)),
                (LINK, named(longs(&[file]))),
                (SYMLINK, both(vec![], "target")),
                (RENAME, both(longs(&[ROOT]), "new")),
                (RENAME, swapped(longs(&[sub]))),
                (RENAME2, both([longs(&[ROOT]), words(&[0, 0])].concat(), "new")),
            ] {
                let answer = client.send(opcode, directory, &body);
                assert_eq!(answer, Err(libc::EINVAL), "{opcode} {name:?}");
            }
        }
    }
    assert_eq!(contents(folder.path()), before);
    assert!(client.fs.metrics().refused.get() > 100);
}

#[test]
fn no_symbolic_link_is_followed_on_the_host() {
    let (folder, path) = shared();
    symlink(folder.path().join("secret"), path.join("link")).unwrap();
    symlink(folder.path(), path.join("up")).unwrap();
    let Some(mut client) = Client::mounted(directory(&path, false)) else { return };
    let link = client.lookup(ROOT, "link");
    let up = client.lookup(ROOT, "up");
    assert!(client.send(LOOKUP, up, &cstr("secret")).is_err());
    assert!(client.send(OPENDIR, up, &words(&[0, 0])).is_err());
    for flags in [libc::O_RDWR, libc::O_PATH, libc::O_NOFOLLOW, libc::O_CREAT | libc::O_TRUNC] {
        let flags = flags.cast_unsigned();
        assert!(client.send(OPEN, link, &words(&[flags, 0])).is_err());
        let create = [words(&[flags, 0o644, 0, 0]), cstr("link")].concat();
        assert!(client.send(CREATE, ROOT, &create).is_err(), "{flags:o}");
    }
    // Its size and mode are the link's own to change, or nobody's.
    let size = [words(&[1 << 3, 0]), longs(&[0, 0])].concat();
    let truncate = [size, vec![0; 64]].concat();
    assert!(client.send(SETATTR, link, &truncate).is_err());
    assert_eq!(fs::read(folder.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn forged_nodes_and_handles_are_nothing() {
    let (_folder, path) = shared();
    let Some(mut client) = Client::mounted(directory(&path, false)) else { return };
    let file = client.lookup(ROOT, "file");
    let handle = client.open(file, libc::O_RDONLY);
    for node in [0, 2, 3, file + 1, file ^ (1 << 47), file ^ (1 << 55), u64::MAX] {
        assert_eq!(client.send(GETATTR, node, &longs(&[0, 0])), Err(libc::EBADF), "{node:#x}");
        assert_eq!(client.send(LOOKUP, node, &cstr("file")), Err(libc::EBADF));
        assert_eq!(client.read(node, handle, 10), Err(libc::EBADF));
    }
    for handle in [0, handle + 1, u64::MAX] {
        assert_eq!(client.read(file, handle, 10), Err(libc::EBADF));
        assert_eq!(client.write(file, handle, b"x"), Err(libc::EBADF));
    }
    // What the guest has forgotten it does not know, by however many times it forgets it.
    let sub = client.lookup(ROOT, "sub");
    assert!(client.send(GETATTR, sub, &longs(&[0, 0])).is_ok());
    assert_eq!(client.send(FORGET, sub, &longs(&[u64::MAX])), Err(0));
    assert_eq!(client.send(GETATTR, sub, &longs(&[0, 0])), Err(libc::EBADF));
    assert_eq!(client.send(FORGET, ROOT, &longs(&[u64::MAX])), Err(0));
    assert!(client.answers());
    // A file is not to be written by a handle for reading.
    assert_eq!(client.write(file, handle, b"x"), Err(libc::EBADF));
}

#[test]
fn a_directory_that_is_moved_away_leads_nowhere_else() {
    let (folder, path) = shared();
    let Some(mut client) = Client::mounted(directory(&path, false)) else { return };
    let sub = client.lookup(ROOT, "sub");
    let subsub = client.lookup(sub, "subsub");
    fs::rename(path.join("sub"), folder.path().join("elsewhere")).unwrap();
    for node in [sub, subsub] {
        assert_eq!(client.send(LOOKUP, node, &cstr("..")), Err(libc::EINVAL));
        assert!(client.send(LOOKUP, node, &cstr("secret")).is_err());
    }
}

#[test]
fn what_is_read_only_is_so_for_every_operation() {
    let (_folder, path) = shared();
    let Some(mut client) = Client::mounted(directory(&path, true)) else { return };
    let before = contents(&path);
    let file = client.lookup(ROOT, "file");
    let reading = client.open(file, libc::O_RDONLY);
    assert_eq!(client.read(file, reading, 10).unwrap(), b"content");
    let named = |body: Vec<u8>, name| [body, cstr(name)].concat();
    let set = |valid: u32| [words(&[valid, 0]), vec![0; 80]].concat();
    let set_by_handle =
        |valid: u32| [words(&[valid | 1 << 6, 0]), longs(&[reading]), vec![0; 72]].concat();
    let create = words(&[libc::O_RDWR.cast_unsigned(), 0o644, 0, 0]);
    let allocate = [longs(&[reading, 0, 100]), words(&[0, 0])].concat();
    for (opcode, node, body) in [
        (MKDIR, ROOT, named(words(&[0o755, 0]), "new")),
        (MKNOD, ROOT, named(words(&[0o100_644, 0, 0, 0]), "new")),
        (MKNOD, ROOT, named(words(&[0o010_644, 0, 0, 0]), "new")),
        (CREATE, ROOT, named(create, "new")),
        (LINK, ROOT, named(longs(&[file]), "new")),
        (SYMLINK, ROOT, [cstr("new"), cstr("target")].concat()),
        (UNLINK, ROOT, cstr("file")),
        (RMDIR, ROOT, cstr("sub")),
        (RENAME, ROOT, [longs(&[ROOT]), cstr("file"), cstr("new")].concat()),
        (RENAME2, ROOT, [longs(&[ROOT, 1]), cstr("file"), cstr("new")].concat()),
        (OPEN, file, words(&[libc::O_WRONLY.cast_unsigned(), 0])),
        (OPEN, file, words(&[libc::O_TRUNC.cast_unsigned(), 0])),
        (SETATTR, file, set(1)),
        (SETATTR, file, set(1 << 1 | 1 << 2)),
        (SETATTR, file, set(1 << 3)),
        (SETATTR, file, set(1 << 4 | 1 << 5)),
        (SETATTR, file, set_by_handle(1)),
        (SETATTR, file, set_by_handle(1 << 5)),
        (SETXATTR, file, [words(&[1, 0]), cstr("user.x"), b"y".to_vec()].concat()),
        (REMOVEXATTR, file, cstr("user.x")),
    ] {
        let answer = client.send(opcode, node, &body);
        assert_eq!(answer, Err(libc::EROFS), "{opcode} {body:x?}");
    }
    assert!(client.send(SETATTR, file, &set_by_handle(1 << 3)).is_err());
    assert!(client.send(FALLOCATE, file, &allocate).is_err());
    assert!(client.write(file, reading, b"x").is_err());
    // A file that is open for reading does not become one for writing.
    let body = [longs(&[reading, 0]), words(&[1, 0]), longs(&[0]), words(&[2, 0]), vec![b'x']];
    assert!(client.send(WRITE, file, &body.concat()).is_err());
    assert_eq!(contents(&path), before);
}

#[test]
fn a_guest_holds_no_more_files_than_it_may() {
    let (_folder, path) = shared();
    if device(Some(directory(&path, false))).is_none() {
        return;
    }
    let metrics = Arc::default();
    let root = Arc::new(export::open("t", &directory(&path, false)).unwrap());
    // What other tests have open counts too, so that only the refusal can be told.
    let guard =
        Guard::new(Arc::clone(&root), false, Budget::below(0), Arc::clone(&metrics)).unwrap();
    guard.init(FsOptions::empty()).unwrap();
    let context = Context::default();
    let full = |error: std::io::Error| error.raw_os_error() == Some(libc::ENFILE);
    assert!(full(guard.lookup(&context, ROOT, c"file").unwrap_err()));
    assert!(full(guard.mkdir(&context, ROOT, c"new", 0o755, 0).unwrap_err()));
    assert!(full(guard.opendir(&context, ROOT, 0).unwrap_err()));
    assert!(guard.rmdir(&context, ROOT, c"sub").is_err());
    assert!(!path.join("new").exists());
    assert_eq!(metrics.over_budget.get(), 3);
    Budget::below(1 << 20).check(root.as_fd()).unwrap();
}
