//! Namespaces of a container: new, shared with another one, with users of its own.

mod sandbox;

use ampoule_protocol::message::{ErrorKind, ProcessId, Request, Stdio};
use sandbox::{Sandbox, can_map_ids, can_run, changed, push};
use serde_json::{Value, json};

/// The output of a shell script that has to succeed.
fn output(sandbox: &Sandbox, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.spec = changed(&["sh", "-c", script], change);
    });
    assert_eq!(status.code, 0, "{out}{err}");
    assert_eq!(err, "");
    out
}

fn add(spec: &mut Value, namespace: Value) {
    push(&mut spec["linux"]["namespaces"], namespace);
}

/// Container ids 0 to 65535 are others outside.
fn with_users(spec: &mut Value) {
    add(spec, json!({"type": "user"}));
    for ids in ["uidMappings", "gidMappings"] {
        spec["linux"][ids] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
}

/// A container that sleeps; its pid.
fn sleeper(sandbox: &Sandbox, name: &str, change: impl FnOnce(&mut Value)) -> i32 {
    let rpc = sandbox.rpc();
    let mut request = sandbox.request(name, &[], Stdio::default());
    request.spec = changed(&["sleep", "1000"], change);
    let pid = rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init(name)));
    pid
}

#[test]
fn clocks_have_offsets() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let uptime = "cut -d. -f1 /proc/uptime";
    let outside: u64 = output(&sandbox, uptime, |_| ()).trim().parse().unwrap();
    let inside: u64 = output(&sandbox, uptime, |spec| {
        add(spec, json!({"type": "time"}));
        spec["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5, "nanosecs": 7}});
    })
    .trim()
    .parse()
    .unwrap();
    assert!((1_000_000..1_000_060).contains(&(inside - outside)), "{inside} {outside}");
}

#[test]
fn namespaces_are_shared_with_another_container() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let pid = sleeper(&sandbox, "first", |spec| {
        add(spec, json!({"type": "time"}));
        spec["hostname"] = json!("shared");
    });
    let shared = ["pid", "uts", "ipc", "network", "cgroup", "time"];
    let files = ["pid", "uts", "ipc", "net", "cgroup", "time"];
    let script = "hostname; ps -o args | grep -c '^sleep 1000'; \
                  for n in pid uts ipc net cgroup time mnt; do readlink /proc/self/ns/$n; done; \
                  readlink /proc/1/ns/mnt";
    let out = output(&sandbox, script, |spec| {
        spec.as_object_mut().unwrap().remove("hostname");
        let mut list = vec![json!({"type": "mount"})];
        for (kind, file) in shared.iter().zip(files) {
            list.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        }
        spec["linux"]["namespaces"] = json!(list);
    });
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["shared", "1"], "{out}");
    // The first container sees the same, all but the mounts.
    let (stdio, pipes) = sandbox.pipes();
    let script = "for n in pid uts ipc net cgroup time mnt; do readlink /proc/self/ns/$n; done";
    let rpc = sandbox.rpc();
    rpc.created(Request::Exec(Box::new(sandbox::exec("first", "p", &["sh", "-c", script], stdio))));
    rpc.wait(sandbox::process("first", "p"));
    let first = sandbox::text(pipes.stdout);
    let first: Vec<&str> = first.lines().collect();
    assert_eq!(first.len(), 7);
    assert_eq!(lines[2..8], first[..6]);
    assert_ne!(lines[8], first[6]);
    assert_eq!(lines[9], first[6]);
}

#[test]
fn namespaces_of_the_host_are_refused_by_name() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    for path in ["/var/run/netns/blue", "/proc/1/ns/pid", "/proc/self/ns/net", "relative"] {
        let mut request = sandbox.request("c", &["true"], Stdio::default());
        request.spec = changed(&["true"], |spec| {
            spec["linux"]["namespaces"][4]["path"] = json!(path);
        });
        let (kind, message) = rpc.error(Request::Create(Box::new(request)));
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(message.contains(path), "{message}");
    }
    // A process that is not there is told as such.
    let mut request = sandbox.request("c", &["true"], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["linux"]["namespaces"][4]["path"] = json!("/proc/4194304/ns/net");
    });
    let (_, message) = rpc.error(Request::Create(Box::new(request)));
    assert!(message.contains("/proc/4194304/ns/net"), "{message}");
}

#[test]
fn users_are_others_outside() {
    if !can_run() || !can_map_ids() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "tr -s ' ' < /proc/self/uid_map; id -u; stat -c %u:%g / /etc/passwd /dev/null; \
                  echo x > /tmp/file; stat -c %u /tmp/file; mkdir /tmp/d; mount -t tmpfs t /tmp/d; \
                  echo x > /dev/null; echo x > /dev/full || echo full; umount /tmp/d; \
                  mount -t proc p /tmp/d 2> /dev/null && echo proc";
    let out = output_any(&sandbox, script, |spec| {
        with_users(spec);
        let caps = json!(["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"]);
        spec["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps});
    });
    let expected = " 0 100000 65536\n0\n0:0\n0:0\n0:0\n0\nfull\n";
    assert!(out.starts_with(expected), "{out}");
    // Nothing of it is the guest's root outside.
    let pid = sleeper(&sandbox, "outside", |spec| {
        with_users(spec);
        add(spec, json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
        spec["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    });
    let status = sandbox.read(&format!("/proc/{pid}/status"));
    let ids = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(ids("Uid:"), [100_007; 4]);
    assert_eq!(ids("Gid:"), [100_008; 4]);
    assert_eq!(ids("Groups:"), [100_009]);
    // A further process has the same users, and pipes that are its own.
    let (stdio, pipes) = sandbox.pipes();
    let rpc = sandbox.rpc();
    let script = "id -u; for p in self 1; do readlink /proc/$p/ns/user; done | uniq | wc -l; \
                  test $(cut -d. -f1 /proc/uptime) -gt 1000000 && echo x > /dev/stdout";
    rpc.created(Request::Exec(Box::new(sandbox::exec(
        "outside",
        "p",
        &["sh", "-c", script],
        stdio,
    ))));
    let status = rpc.wait(sandbox::process("outside", "p"));
    assert_eq!((status.code, sandbox::text(pipes.stdout).as_str()), (0, "7\n1\nx\n"));
    // Another container in the same user namespace.
    let script = "id -u; tr -s ' ' < /proc/self/uid_map";
    let out = output(&sandbox, script, |spec| {
        add(spec, json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    });
    assert_eq!(out, "0\n 0 100000 65536\n");
}

/// Standard output of a script, whatever it said beside.
fn output_any(sandbox: &Sandbox, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let (_, out, err) = sandbox.run_changed("c", &[], |request| {
        request.spec = changed(&["sh", "-c", script], change);
    });
    assert!(!out.is_empty(), "{err}");
    out
}

#[test]
fn a_terminal_and_devices_work_for_other_users() {
    if !can_run() || !can_map_ids() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "stat -c '%t:%T %a %u:%g' /dev/zero0; head -c 3 /dev/zero0 | wc -c";
    let out = output(&sandbox, script, |spec| {
        with_users(spec);
        spec["linux"]["devices"] = json!([{"path": "/dev/zero0", "type": "c", "major": 1,
            "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}]);
        spec["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
        spec["process"]["capabilities"] = json!({"bounding": ["CAP_DAC_OVERRIDE"],
            "effective": ["CAP_DAC_OVERRIDE"], "permitted": ["CAP_DAC_OVERRIDE"]});
    });
    assert_eq!(out, "1:5 640 3:4\n3\n");
    let token = sandbox.token();
    let stream = sandbox.stream(&token);
    let stdio = Stdio { terminal: Some(token), ..Stdio::default() };
    let mut request = sandbox.request("t", &[], stdio);
    request.spec = changed(&["sh", "-c", "tty; stat -c %u $(tty)"], |spec| {
        with_users(spec);
        spec["process"]["terminal"] = json!(true);
        spec["process"]["user"] = json!({"uid": 12, "gid": 12});
    });
    let rpc = sandbox.rpc();
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("t")));
    assert_eq!(rpc.wait(ProcessId::init("t")).code, 0);
    assert_eq!(sandbox::text(sandbox::collect(stream)), "/dev/pts/0\r\n12\r\n");
}

#[test]
fn a_container_with_users_of_its_own_may_divide_its_cgroup() {
    if !can_run() || !can_map_ids() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "cd /sys/fs/cgroup && stat -c %u . cgroup.procs cgroup.freeze && \
                  mkdir below && echo 0 > below/cgroup.procs && grep ^0: /proc/self/cgroup";
    let divide = |writable: bool| {
        let (status, out, _) = sandbox.run_changed("c", &[], |request| {
            request.spec = changed(&["sh", "-c", script], |spec| {
                with_users(spec);
                if writable {
                    let mounts = spec["mounts"].as_array_mut().unwrap();
                    let cgroup = mounts.iter_mut().find(|m| m["type"] == "cgroup").unwrap();
                    cgroup["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
                }
            });
        });
        (status.code, out)
    };
    let (code, out) = divide(true);
    assert_eq!((code, out.as_str()), (0, "0\n0\n65534\n0::/below\n"));
    let (code, out) = divide(false);
    assert_eq!((code, out.as_str()), (1, "65534\n65534\n65534\n"));
}
