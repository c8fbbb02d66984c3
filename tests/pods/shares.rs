//! Directories and files that a guest sees while it runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ampoule::agent::message::{ProcessId, Request};

use crate::needs_sandboxes;
use crate::pod::{Pod, bind, busybox, container, shared};

pub fn come_and_go() {
    needs_sandboxes!();
    let mut pod = Pod::start();
    let (root, volume) = (pod.folder("root"), pod.folder("volume"));
    busybox(&root);
    fs::write(volume.join("file"), "by the host\n").unwrap();
    pod.share("root", &root, false);
    pod.run(container("a", shared("root"))).unwrap();
    assert_eq!(pod.shell("a", "echo one > /written; ls /"), "bin\ndev\netc\nproc\ntmp\nwritten\n");
    assert_eq!(fs::read_to_string(root.join("written")).unwrap(), "one\n");

    // While it runs: a directory, a file, and one that is read-only.
    pod.share("volume", &volume, false);
    pod.share("single", &volume.join("file"), false);
    pod.share("ro", &volume, true);
    let with = bind(
        bind(bind(container("b", shared("root")), "volume", "/v"), "single", "/f"),
        "ro",
        "/r",
    );
    pod.run(with).unwrap();
    let script = "cat /v/file /f; echo two > /v/new; cat /r/new; echo no > /r/new; echo three > /f";
    let said = pod.shell("b", script);
    let expected =
        "by the host\nby the host\ntwo\nsh: can't create /r/new: Read-only file system\n";
    assert_eq!(said, expected);
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "three\n");

    // One that is taken away, and one of the same name.
    pod.delete("b");
    for name in ["volume", "single", "ro"] {
        pod.tree.remove(name).unwrap();
    }
    let gone = pod.run(bind(container("c", shared("root")), "volume", "/v")).unwrap_err();
    assert!(gone.to_string().contains("No such file"), "{gone}");
    let other = pod.folder("other");
    fs::write(other.join("file"), "another\n").unwrap();
    pod.share("volume", &other, false);
    pod.run(bind(container("c", shared("root")), "volume", "/v")).unwrap();
    assert_eq!(pod.shell("c", "cat /v/file; ls /v"), "another\nfile\n");
    // The first one has noticed nothing.
    assert_eq!(pod.shell("a", "cat /written"), "one\n");
    let mut agent = pod.connect();
    agent.call(&Request::Kill { id: ProcessId::init("a"), signal: 9, all: true }).unwrap();
    pod.machine.end().unwrap();
}

/// Files below a directory, and itself.
fn files(path: &Path, found: &mut BTreeSet<(u64, u64)>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    found.insert((metadata.dev(), metadata.ino()));
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    }
}

/// How many of these a process has open.
fn held(pid: i32, files: &BTreeSet<(u64, u64)>) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    open.filter(|fd| fs::metadata(fd.path()).is_ok_and(|metadata| files.contains(&of(metadata))))
        .count()
}

pub fn are_let_go_of() {
    needs_sandboxes!();
    let mut pod = Pod::start();
    let (root, volume) = (pod.folder("root"), pod.folder("volume"));
    busybox(&root);
    fs::create_dir(volume.join("sub")).unwrap();
    for name in ["one", "two", "sub/three"] {
        fs::write(volume.join(name), name).unwrap();
    }
    pod.share("root", &root, false);
    pod.run(container("a", shared("root"))).unwrap();
    let mut of_volume = BTreeSet::new();
    files(&volume, &mut of_volume);
    let mut of_root = BTreeSet::new();
    files(&root, &mut of_root);
    let pid = pod.machine.guest.pid();

    for round in 0..3 {
        pod.share("volume", &volume, false);
        pod.share("single", &volume.join("one"), true);
        let with = bind(bind(container("b", shared("root")), "volume", "/v"), "single", "/f");
        pod.run(with).unwrap();
        assert_eq!(pod.shell("b", "find /v -type f | xargs cat; cat /f").len(), 18);
        assert!(held(pid, &of_volume) >= 4);
        pod.delete("b");
        pod.tree.remove("volume").unwrap();
        pod.tree.remove("single").unwrap();
        // The guest says so a moment later.
        let until = Instant::now() + Duration::from_secs(20);
        while held(pid, &of_volume) > 0 {
            assert!(Instant::now() < until, "round {round}: {} held", held(pid, &of_volume));
            thread::sleep(Duration::from_millis(20));
        }
        // What another container has is still there.
        assert!(held(pid, &of_root) > 0);
    }
    pod.machine.end().unwrap();
}

pub fn one_root_for_many() {
    needs_sandboxes!();
    let mut pod = Pod::start();
    let root = pod.folder("root");
    busybox(&root);
    pod.share("root", &root, false);
    let agents: Vec<_> = (0..4).map(|_| pod.connect()).collect();
    thread::scope(|scope| {
        for (number, mut agent) in agents.into_iter().enumerate() {
            scope.spawn(move || {
                let create = container(&format!("c{number}"), shared("root"));
                agent.send(&Request::Create(Box::new(create))).unwrap();
                agent.receive_created().unwrap();
            });
        }
    });
    pod.run(container("last", shared("root"))).unwrap();
    assert_eq!(pod.shell("last", "ls /"), "bin\ndev\netc\nproc\ntmp\n");
    pod.machine.end().unwrap();
}
