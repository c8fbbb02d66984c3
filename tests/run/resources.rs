//! What a container may take, and what its processes may do.

use std::fs;
use std::path::Path;

use crate::needs_sandboxes;
use crate::support::{Ampoule, skip};

#[test]
fn limits_hold_in_the_guest_and_its_machine_is_made_for_them() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let options = [
        "-m",
        "96m",
        "--memory-swap",
        "128m",
        "--memory-reservation",
        "64m",
        "--pids-limit",
        "40",
        "--cpu-shares",
        "512",
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "75000",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--oom-score-adj",
        "300",
        "--shm-size",
        "2m",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=9999",
    ];
    let script =
        "cd /sys/fs/cgroup; cat memory.max memory.swap.max memory.low pids.max cpu.weight cpu.max
        ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj
        df -k /dev/shm | awk 'NR == 2 { print $2 }'
        cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; grep -c processor /proc/cpuinfo
        awk '/MemTotal/ { print ($2 > 110000 && $2 < 200000) }' /proc/meminfo";
    let expected = "100663296\n33554432\n67108864\n40\n20\n75000 50000\n100\n200\n0\n300\n2048\n1\n9999\n2\n1\n";
    ampoule.shell(&options, "busybox", script).gives(0, expected);
    let many = "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; echo all";
    let refused = ampoule.shell(&["--pids-limit", "20"], "busybox", many);
    assert!(refused.code != 0 && refused.stderr.contains("fork"), "{refused:?}");
    let outside = ["--cpuset-cpus", "31"];
    ampoule.shell(&outside, "busybox", "true").fails(125, &["--cpuset-cpus", "31"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn capabilities_profiles_groups_and_files_of_options_are_dockers() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#;
    let options = [
        "--cap-drop",
        "ALL",
        "--cap-add",
        "chown",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        &format!("seccomp={}", file("profile", profile)),
        "--env-file",
        &file("env", "# remark\nFROM=file\nOWN=file\n"),
        "-e",
        "OWN=own",
        "--group-add",
        "root",
        "--group-add",
        "4321",
        "-u",
        "1000:1000",
        "--annotation",
        "a=b",
        "--label",
        "tier=db",
        "--stop-signal",
        "USR1",
        "--stop-timeout",
        "3",
    ];
    let script = "grep -E 'CapBnd|NoNewPrivs|^Groups' /proc/self/status | tr -s ' \\t' ' '
        mkdir /tmp/x 2>&1 | grep -o 'Input/output error'; echo $FROM $OWN";
    let expected =
        "Groups: 0 4321 \nCapBnd: 0000000000000001\nNoNewPrivs: 1\nInput/output error\nfile own\n";
    ampoule.shell(&options, "busybox", script).gives(0, expected);
    let script = "mkdir /m; mount -t tmpfs tmpfs /m && echo 1 > /proc/sys/kernel/panic_print && ls /sys/fs/cgroup > /dev/null
        mkdir /sys/fs/cgroup/x && echo all";
    ampoule.shell(&["--privileged"], "busybox", script).gives(0, "all\n");
    ampoule.shell(&[], "busybox", "mkdir /m; mount -t tmpfs tmpfs /m 2> /dev/null").gives(1, "");
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn an_init_passes_signals_on_collects_orphans_and_ends_as_its_program_does() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "tr '\\0' ' ' < /proc/1/cmdline | head -c 21; echo $$
        (sleep 0.1 & exec true); sleep 0.3; grep -l zombie /proc/[0-9]*/status; trap 'exit 7' USR1
        kill -USR1 1; sleep 5; echo not heard";
    ampoule.shell(&["--init"], "busybox", script).gives(7, "/sbin/docker-init -- 2\n");
    let missing = ampoule.output(&["run", "--rm", "--init", "busybox", "/no/such"]);
    missing.fails(127, &["/no/such"]);
    let killed = ampoule.shell(&["--init"], "busybox", "kill -KILL $$");
    killed.gives(137, "");
}

#[test]
fn the_sandboxes_own_group_is_where_it_is_wanted() {
    needs_sandboxes!();
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() || !nix::unistd::geteuid().is_root() {
        return skip("needs control groups of version 2, and root");
    }
    let ampoule = Ampoule::new();
    let parent = format!("ampoule-test-{}", std::process::id());
    let wanted = format!("/{parent}/inner");
    ampoule.ok(&[
        "run",
        "-d",
        "--rm",
        "--name",
        "g",
        "-m",
        "64m",
        "--cgroup-parent",
        &wanted,
        "busybox",
        "sleep",
        "1000",
    ]);
    let groups: Vec<_> = fs::read_dir(root.join(&parent).join("inner"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(groups.len(), 1);
    let read = |name: &str| fs::read_to_string(groups[0].join(name)).unwrap();
    // 160 MiB of the machine, and 256 of its monitor.
    assert_eq!(read("memory.max"), format!("{}\n", 416u64 << 20));
    assert_eq!(read("cgroup.procs").lines().count(), 1);
    ampoule.ok(&["rm", "-f", "g"]);
    assert!(!groups[0].exists());
    for group in [root.join(&parent).join("inner"), root.join(&parent)] {
        fs::remove_dir(group).unwrap();
    }
    let nowhere = ["run", "--rm", "--cgroup-parent", "../x", "busybox", "true"];
    ampoule.output(&nowhere).fails(125, &["path of a group"]);
}
