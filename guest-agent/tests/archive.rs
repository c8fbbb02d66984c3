//! Files of containers: looked at, read, written, and what was changed of them.
#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

mod sandbox;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use ampoule_protocol::archive::{ChunkReader, ChunkWriter, Entry, Extended, Kind};
use ampoule_protocol::frame;
use ampoule_protocol::message::{ErrorKind, Files, PathInfo, ProcessId, Reply, Request, Stdio};
use sandbox::{Rpc, Sandbox, can_run, exec, process};

fn files(wanted: Files) -> Request {
    Request::Files { container: "c".into(), wanted }
}

fn read(sandbox: &Sandbox, wanted: Files) -> Result<Vec<u8>, Reply> {
    let rpc = sandbox.rpc();
    rpc.done(files(wanted));
    let mut chunks = ChunkReader::new(&rpc.0);
    let mut bytes = Vec::new();
    chunks.read_to_end(&mut bytes).unwrap();
    match rpc.receive() {
        Reply::Done => Ok(bytes),
        error => Err(error),
    }
}

fn entries(bytes: &[u8]) -> Vec<(String, Kind, String)> {
    let mut archive = tar::Archive::new(bytes);
    let mut extended = Extended::default();
    let mut all = Vec::new();
    for found in archive.entries().unwrap().raw(true) {
        let mut found = found.unwrap();
        let Some(entry) = Entry::read(&mut found, &mut extended).unwrap() else { continue };
        let mut data = Vec::new();
        found.read_to_end(&mut data).unwrap();
        let data = String::from_utf8_lossy(&data).into_owned();
        let link = String::from_utf8(entry.link).unwrap();
        all.push((String::from_utf8(entry.path).unwrap(), entry.kind, data + &link));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn archive(all: &[(&str, Kind, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, text) in all {
        let is_file = *kind == Kind::File;
        let entry = Entry {
            path: (*path).into(),
            link: if is_file { Vec::new() } else { (*text).into() },
            kind: *kind,
            mode: 0o4755,
            uid: 3,
            gid: 4,
            mtime: 5,
            size: text.len() as u64,
            xattrs: Vec::new(),
        };
        entry.write(&mut archive, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

fn write(sandbox: &Sandbox, path: &str, bytes: &[u8]) -> Reply {
    let rpc = sandbox.rpc();
    rpc.done(files(Files::Write { path: path.into() }));
    let mut chunks = ChunkWriter::new(&rpc.0);
    // The agent may have had enough.
    let _ = chunks.write_all(bytes).and_then(|()| chunks.finish().map(drop));
    frame::read(&mut &rpc.0).unwrap()
}

fn look(rpc: &Rpc, path: &str, follow: bool) -> Option<PathInfo> {
    match rpc.call(files(Files::Look { path: path.into(), follow })) {
        Reply::Path { info } => info,
        other => panic!("{other:?}"),
    }
}

fn run(sandbox: &Sandbox, script: &str) {
    let rpc = sandbox.rpc();
    let name = sandbox.token();
    rpc.created(Request::Exec(Box::new(exec("c", &name, &["sh", "-c", script], Stdio::default()))));
    assert_eq!(rpc.wait(process("c", &name)).code, 0, "{script}");
}

/// A container `c` that runs.
fn start(sandbox: &Sandbox) -> Rpc {
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    let rpc = sandbox.rpc();
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    rpc
}

fn end(rpc: &Rpc) {
    rpc.kill("c", 9);
    rpc.wait(ProcessId::init("c"));
    rpc.done(Request::Delete { container: "c".into() });
}

#[test]
fn files_are_looked_at_and_read_as_the_container_sees_them() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    fs::create_dir(sandbox.rootfs().join("data")).unwrap();
    fs::write(sandbox.rootfs().join("data/file"), "text").unwrap();
    symlink("/data", sandbox.rootfs().join("link")).unwrap();
    symlink("../../../../etc", sandbox.rootfs().join("up")).unwrap();
    let rpc = start(&sandbox);
    let directory = |link: Option<&str>| {
        Some(PathInfo { directory: link.is_none(), link: link.map(str::to_owned) })
    };
    assert_eq!(look(&rpc, "/data", false), directory(None));
    assert_eq!(look(&rpc, "link", false), directory(Some("/data")));
    assert_eq!(look(&rpc, "link", true), directory(None));
    assert_eq!(look(&rpc, "link/", false), directory(None));
    assert_eq!(look(&rpc, "link/none", false), None);
    let (kind, _) = rpc.error(files(Files::Look { path: "/data/file/".into(), follow: false }));
    assert_eq!(kind, ErrorKind::Internal);
    let wanted = |path: &str, follow| Files::Read { path: path.into(), follow };
    let of = |path, follow| entries(&read(&sandbox, wanted(path, follow)).unwrap());
    let expected = [
        (".".to_owned(), Kind::Directory, String::new()),
        ("file".to_owned(), Kind::File, "text".to_owned()),
    ];
    assert_eq!(of("data", false), expected);
    assert_eq!(of("link", true), expected);
    assert_eq!(of("link/.", false), expected);
    assert_eq!(of("link", false), [(".".to_owned(), Kind::Symlink, "/data".to_owned())]);
    // Not the host's, but the container's own.
    assert_eq!(
        look(&rpc, "up/hostname", false).is_some(),
        look(&rpc, "etc/hostname", false).is_some()
    );
    // Of /proc there is the directory.
    let all = of("/", false);
    assert!(all.iter().any(|entry| entry.0 == "data/file"));
    assert!(all.iter().any(|entry| entry.0 == "proc"));
    assert!(!all.iter().any(|entry| entry.0.starts_with("proc/")));
    let (kind, message) = sandbox.rpc().error(files(wanted("/none", false)));
    assert!(kind == ErrorKind::Internal && message.contains("No such file"), "{message}");
    end(&rpc);
    let (kind, _) = sandbox.rpc().error(files(wanted("/", false)));
    assert_eq!(kind, ErrorKind::NotFound);
}

#[test]
fn files_are_written_as_the_container_sees_them() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    symlink("/run", sandbox.rootfs().join("link")).unwrap();
    fs::create_dir_all(sandbox.rootfs().join("run")).unwrap();
    symlink("../../../..", sandbox.rootfs().join("up")).unwrap();
    let rpc = start(&sandbox);
    let sent = archive(&[
        ("a", Kind::Directory, ""),
        ("a/file", Kind::File, "text"),
        ("a/second", Kind::HardLink, "a/file"),
        ("a/pipe", Kind::Fifo, ""),
        ("a/symlink", Kind::Symlink, "/none"),
        ("up/etc/written", Kind::File, "inside"),
    ]);
    assert_eq!(write(&sandbox, "/link", &archive(&[("x", Kind::File, "x")])), Reply::Done);
    run(&sandbox, "test $(cat /run/x) = x");
    assert_eq!(write(&sandbox, "/", &sent), Reply::Done);
    run(
        &sandbox,
        "test \"$(stat -c '%u:%g %a %Y' /a/file)\" = '3:4 4755 5' && test /a/file -ef /a/second \
        && test -p /a/pipe && test -L /a/symlink && test \"$(stat -c '%u:%g %a %Y' /a)\" = '3:4 4755 5' \
        && test \"$(cat /etc/written)\" = inside",
    );
    let big = vec![b'x'; 3 << 20];
    let big = String::from_utf8(big).unwrap();
    assert_eq!(write(&sandbox, "/tmp", &archive(&[("big", Kind::File, &big)])), Reply::Done);
    run(&sandbox, "test $(wc -c < /tmp/big) = 3145728 && ! mkdir /tmp/big/x 2> /dev/null");
    let cut = &sent[..700];
    assert!(matches!(write(&sandbox, "/tmp", cut), Reply::Error(_)));
    let refused = write(&sandbox, "/tmp", &archive(&[("../x", Kind::File, &big)]));
    assert!(matches!(&refused, Reply::Error(e) if e.message.contains("no name")), "{refused:?}");
    let (_, message) = sandbox.rpc().error(files(Files::Write { path: "/tmp/big".into() }));
    assert!(message.contains("Not a directory"), "{message}");
    end(&rpc);
}

#[test]
fn changes_are_told_and_become_a_layer() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    for directory in ["kept", "gone", "new", "emptied"] {
        fs::create_dir(sandbox.rootfs().join(directory)).unwrap();
        fs::write(sandbox.rootfs().join(directory).join("one"), "1").unwrap();
        fs::write(sandbox.rootfs().join(directory).join("two"), "2").unwrap();
    }
    let rpc = start(&sandbox);
    run(
        &sandbox,
        "echo 3 > /kept/three; echo more >> /kept/one; rm -r /gone; rm -r /new; mkdir /new; \
         echo 4 > /new/one; rm /emptied/one; mkdir /added; ln -s x /added/link",
    );
    let told = read(&sandbox, Files::Changes).unwrap();
    let mut told: Vec<_> =
        told.split(|byte| *byte == 0).map(|one| String::from_utf8(one.to_vec()).unwrap()).collect();
    told.retain(|one| {
        ["kept", "gone", "new", "emptied", "added"]
            .iter()
            .any(|name| one.get(1..).is_some_and(|path| path.starts_with(name)))
    });
    told.sort();
    let expected = [
        "Aadded",
        "Aadded/link",
        "Akept/three",
        "Cemptied",
        "Ckept",
        "Ckept/one",
        "Cnew",
        "Cnew/one",
        "Demptied/one",
        "Dgone",
        "Dnew/two",
    ];
    assert_eq!(told, expected);
    let layer = entries(&read(&sandbox, Files::Layer).unwrap());
    let has = |path: &str, kind, text: &str| layer.contains(&(path.into(), kind, text.into()));
    assert!(has("kept/one", Kind::File, "1more\n") && has("kept/three", Kind::File, "3\n"));
    assert!(has(".wh.gone", Kind::File, "") && has("emptied/.wh.one", Kind::File, ""));
    assert!(has("new/.wh..wh..opq", Kind::File, "") && has("new/one", Kind::File, "4\n"));
    assert!(has("added/link", Kind::Symlink, "x") && has(".", Kind::Directory, ""));
    assert!(!layer.iter().any(|entry| matches!(entry.1, Kind::Character(..)) || entry.0 == "gone"));
    end(&rpc);
}
