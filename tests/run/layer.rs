//! What a container writes to its root file system: in memory, or on a disk that lasts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use crate::needs_sandboxes;
use crate::support::Ampoule;

/// The folder of the only container's disk.
fn disks(ampoule: &Ampoule) -> Vec<PathBuf> {
    let folders = fs::read_dir(ampoule.root().join("containers")).into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("layer.img")).filter(|disk| disk.exists()).collect()
}

/// The state of the only sandbox.
fn state(ampoule: &Ampoule) -> serde_json::Value {
    serde_json::from_str(&ampoule.states()).unwrap()
}

/// A file of a disk's root file system, as e2fsprogs reads it; the journal is replayed first, as a mount
/// would do it.
fn file_on(disk: &PathBuf, path: &str) -> String {
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("disk");
    let run = |command: &mut Command| command.output().unwrap();
    let cp = run(Command::new("cp").arg("--sparse=always").args([disk, &copied]));
    assert!(cp.status.success(), "{cp:?}");
    let repaired = run(Command::new("/usr/sbin/e2fsck").arg("-fp").arg(&copied));
    // 1: errors were corrected, as a journal's replay counts.
    assert!(repaired.status.code().is_some_and(|code| code <= 1), "{repaired:?}");
    let request = format!("cat /upper{path}");
    let read = run(Command::new("/usr/sbin/debugfs").args(["-R", &request]).arg(&copied));
    String::from_utf8(read.stdout).unwrap()
}

#[test]
fn with_rm_memory_takes_it_and_a_disk_where_one_is_asked_for() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let root = "grep ' / ' /proc/mounts | grep -o volatile";
    ampoule.shell(&[], "busybox", root).gives(0, "volatile\n");
    for start in ["warm", "cold"] {
        let options = ["--start", start, "--storage-opt", "size=64m"];
        let script = "df -m / | awk 'NR == 2 { print ($2 > 40 && $2 < 64) }'
            dd if=/dev/zero of=/big bs=1M count=100 2> /dev/null || echo full
            rm /big; echo x > /file; chmod 4755 /file; sync; cat /file";
        ampoule.shell(&options, "busybox", script).gives(0, "1\nfull\nx\n");
    }
    // Nothing is left, but for what the next disk begins with.
    assert_eq!(disks(&ampoule), [""; 0].map(PathBuf::from));
    assert!(fs::read_dir(ampoule.root().join("containers")).unwrap().next().is_none());
    assert_eq!(fs::read_dir(ampoule.root().join("layers")).unwrap().count(), 1);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_a_container_wrote_is_on_its_disk_when_it_has_ended() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    // Without sync: its end is enough.
    let script = "echo written > /file; mkdir /dir; echo deep > /dir/file; rm /etc/group";
    ampoule.ok(&["run", "--name", "one", "busybox", "sh", "-c", script]);
    let disk = &disks(&ampoule)[0];
    let metadata = fs::metadata(disk).unwrap();
    assert_eq!(metadata.len(), 10 << 30);
    assert!(metadata.blocks() * 512 < 64 << 20, "{} blocks", metadata.blocks());
    assert_eq!(
        (file_on(disk, "/file"), file_on(disk, "/dir/file")),
        ("written\n".into(), "deep\n".into())
    );
    ampoule.ok(&["rm", "one"]);
    assert_eq!(disks(&ampoule), [""; 0].map(PathBuf::from));
    // And where the host wants memory for it, there is none.
    let config = ampoule.root().join("config.toml");
    fs::write(&config, "[storage]\nlayer = \"tmpfs\"\n").unwrap();
    let run = ["run", "--name", "two", "busybox", "grep", "-c", "volatile", "/proc/mounts"];
    let output = ampoule.command(run).env("AMPOULE_CONFIG", &config).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
    assert_eq!(disks(&ampoule), [""; 0].map(PathBuf::from));
}

#[test]
fn what_a_container_synced_survives_its_monitors_sudden_death() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "import os
def write(path, text):
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(file, text)
    os.fsync(file)
for number in range(20):
    write(f'/synced{number}', b'%d\\n' % number)
os.fsync(os.open('/', os.O_RDONLY))
print('synced', flush=True)
while True: open('/lost', 'a').write('x' * 100000)
";
    ampoule.ok(&["run", "-d", "--name", "db", "debian", "python3", "-c", script]);
    let mut log = String::new();
    while !log.contains("synced") {
        log = ampoule.ok(&["logs", "db"]);
    }
    let monitor = i32::try_from(state(&ampoule)["monitor"].as_i64().unwrap()).unwrap();
    let keeper = i32::try_from(state(&ampoule)["keeper"].as_i64().unwrap()).unwrap();
    for pid in [monitor, keeper] {
        let pid = nix::unistd::Pid::from_raw(pid);
        // The keeper may have noticed, and gone.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let disk = &disks(&ampoule)[0];
    for number in [0, 7, 19] {
        assert_eq!(file_on(disk, &format!("/synced{number}")), format!("{number}\n"));
    }
}

#[test]
fn a_fork_goes_on_with_a_disk_of_its_own() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&[
        "run",
        "-d",
        "--name",
        "base",
        "busybox",
        "sh",
        "-c",
        "echo before > /file; while :; do read x < /etc/passwd; sleep 1; done",
    ]);
    let read = |name: &str| ampoule.ok(&["exec", name, "cat", "/file"]);
    // It may not have come to it yet.
    while ampoule.output(&["exec", "base", "cat", "/file"]).stdout.is_empty() {}
    ampoule.ok(&["fork", "base", "other"]);
    ampoule.ok(&["exec", "other", "sh", "-c", "echo after > /file; sync"]);
    assert_eq!((read("base"), read("other")), ("before\n".into(), "after\n".into()));
    assert_eq!(disks(&ampoule).len(), 2);
    ampoule.ok(&["rm", "-f", "base", "other"]);
    assert_eq!((disks(&ampoule), ampoule.left()), (Vec::new(), Vec::new()));
}
