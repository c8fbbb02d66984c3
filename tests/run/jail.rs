//! What a monitor is to its host: a user that nobody else is, in namespaces of its own, with nothing to
//! open and next to nothing to ask for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::needs_sandboxes;
use crate::support::{Ampoule, BIN, Finished, guest};

/// The fields of a `status` file of proc(5).
fn status(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// The monitor of an ampoule's only sandbox: its `proc` folder.
fn monitor(ampoule: &Ampoule) -> PathBuf {
    let state: serde_json::Value = serde_json::from_str(&ampoule.states()).unwrap();
    PathBuf::from(format!("/proc/{}", state["monitor"].as_i64().unwrap()))
}

fn threads(process: &Path) -> Vec<PathBuf> {
    let tasks = fs::read_dir(process.join("task")).unwrap();
    tasks.map(|task| task.unwrap().path()).collect()
}

/// The name of a thread, and whether it is of the monitor's program: KVM has some of its own in it.
fn name(thread: &Path) -> Option<String> {
    let name = fs::read_to_string(thread.join("comm")).unwrap().trim().to_owned();
    (!name.starts_with("kvm-")).then_some(name)
}

/// What holds of a jailed monitor, whatever it serves. `own` namespaces are not the caller's.
fn is_jailed(monitor: &Path, own: &[&str]) {
    for namespace in own {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).unwrap();
        assert_ne!(of(monitor), of(Path::new("/proc/self")), "{namespace}");
    }
    for thread in threads(monitor) {
        if name(&thread).is_none() {
            continue;
        }
        let status = status(&thread);
        for (field, value) in [
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("Groups", ""),
        ] {
            assert_eq!(status[field], value, "{field} of {thread:?}");
        }
    }
    let limits = fs::read_to_string(monitor.join("limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().map(str::to_owned).take(2).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max locked memory"), ["0", "0"]);
    // Who is not dumpable belongs to root, and nobody else looks into it.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(monitor.join("maps")).unwrap());
    assert_eq!(owner, 0);
    let environment = fs::read_to_string(monitor.join("environ")).unwrap();
    assert!(environment.split('\0').all(|v| v.is_empty() || v.starts_with("AMPOULE_STATE=")));
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_monitor_is_nobody_and_sees_nothing() {
    needs_sandboxes!();
    let (one, other) = (Ampoule::new(), Ampoule::new());
    for ampoule in [&one, &other] {
        ampoule.ok(&["run", "-d", "busybox", "sleep", "1000"]);
    }
    let uid = |ampoule: &Ampoule| {
        let monitor = monitor(ampoule);
        is_jailed(&monitor, &["mnt", "pid", "net", "ipc", "uts", "cgroup"]);
        let pid: u32 = monitor.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for thread in threads(&monitor).iter().filter(|thread| name(thread).is_some()) {
            let status = status(thread);
            let id = (0x7000_0000 + pid).to_string();
            assert_eq!(status["Uid"], [id.as_str(); 4].join("\t"));
            assert_eq!(status["Gid"], [id.as_str(); 4].join("\t"));
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(status[set], "0000000000000000", "{set} of {thread:?}");
            }
        }
        // Its root has nothing in it, and cannot be written to.
        let root = monitor.join("root");
        assert_eq!(entries(&root), [""; 0]);
        assert!(fs::write(root.join("file"), "").is_err());
        let mounts = fs::read_to_string(monitor.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        let devices = fs::read_to_string(monitor.join("net/dev")).unwrap();
        assert_eq!(devices.lines().count(), 3, "more than lo: {devices}");
        pid
    };
    assert_ne!(uid(&one), uid(&other));
}

#[test]
fn a_monitor_is_limited_as_a_whole_and_leaves_no_group() {
    needs_sandboxes!();
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return crate::support::skip("needs control groups of version 2");
    }
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "-d", "--name", "limited", "--memory", "64m", "busybox", "sleep", "1000"]);
    let group = fs::read_to_string(monitor(&ampoule).join("cgroup")).unwrap();
    let group = Path::new("/sys/fs/cgroup").join(group.trim().strip_prefix("0::/").unwrap());
    assert_eq!(group.parent().unwrap(), Path::new("/sys/fs/cgroup/ampoule"));
    let limit = |name: &str| -> u64 {
        fs::read_to_string(group.join(name)).unwrap().trim().parse().unwrap()
    };
    // The container's, the guest's own, and the monitor's.
    assert!((320 << 20..512 << 20).contains(&limit("memory.max")), "{}", limit("memory.max"));
    assert_eq!(limit("pids.max"), 33);
    assert_eq!(limit("memory.oom.group"), 1);
    // Its keeper is where its caller is.
    assert_eq!(fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().count(), 1);
    ampoule.ok(&["rm", "-f", "limited"]);
    assert!(!group.exists());
}

#[test]
fn who_serves_files_has_rights_over_those_alone() {
    needs_sandboxes!();
    let folder = TempDir::new().unwrap();
    let share = folder.path().join("share");
    fs::create_dir(&share).unwrap();
    let mut machine = std::process::Command::new(BIN)
        .args(["vm", "run", "--kernel"])
        .arg(guest().join("vmlinux"))
        .arg("--share")
        .arg(format!("tag=t,path={}", share.display()))
        .arg("--control")
        .arg(folder.path().join("control"))
        .spawn()
        .unwrap();
    let monitor = child_of(machine.id(), &folder.path().join("control"));
    is_jailed(&monitor, &["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"]);
    for thread in threads(&monitor) {
        let Some(name) = name(&thread) else { continue };
        let capabilities = status(&thread)["CapPrm"].clone();
        // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID and SETFCAP, over a
        // user namespace that owns nothing.
        let expected = if name == "fs" { "00000000800000df" } else { "0000000000000000" };
        assert_eq!(capabilities, expected, "{name}");
    }
    let root = monitor.join("root");
    assert_eq!(entries(&root), ["proc"]);
    assert_eq!(entries(&root.join("proc")), ["self"]);
    let mut own = entries(&root.join("proc/self"));
    own.sort();
    assert_eq!(own, ["fd", "mountinfo"]);
    assert_eq!(fs::read_to_string(root.join("proc/self/mountinfo")).unwrap(), "");
    machine.kill().unwrap();
    machine.wait().unwrap();
}

/// The monitor of a running `ampoule vm run`, which has made its control socket.
fn child_of(parent: u32, control: &Path) -> PathBuf {
    // Answered when the machine runs; until then the connection waits.
    loop {
        let paused = Finished::of(
            std::process::Command::new(BIN)
                .args(["vm", "pause", "--control"])
                .arg(control)
                .output()
                .unwrap(),
        );
        if paused.code == 0 {
            break;
        }
        std::thread::yield_now();
    }
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    PathBuf::from("/proc").join(children.trim())
}
