//! What a process of a container is and sees.

mod sandbox;

use std::fs;
use std::os::unix::fs::symlink;

use ampoule_protocol::message::{Request, Stdio, WritableLayer};
use sandbox::{Sandbox, can_run, changed, user};
use serde_json::json;

/// The output of a shell script that has to succeed.
fn output(sandbox: &Sandbox, script: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.spec = changed(&["sh", "-c", script], change);
    });
    assert_eq!(status.code, 0, "{out}{err}");
    assert_eq!(err, "");
    out
}

#[test]
fn the_root_is_the_containers_and_nothing_else_is_mounted() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let mounts = output(&sandbox, "cut -d' ' -f5 /proc/self/mountinfo", |_| ());
    let mounts: Vec<&str> = mounts.lines().collect();
    let expected =
        ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
    assert_eq!(mounts[..expected.len()], expected);
    let masks = ["/proc/kcore", "/proc/scsi", "/proc/sys", "/proc/sysrq-trigger", "/sys/firmware"];
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let is_known = |mount: &&str| masks.contains(mount) || *mount == boot_id;
    assert!(mounts[expected.len()..].iter().all(is_known), "{mounts:?}");
    // Writes go to the upper layer alone.
    assert_eq!(output(&sandbox, "echo x > /tmp/new; rm /etc/group; ls /tmp", |_| ()), "new\n");
    assert!(!sandbox.rootfs().join("tmp/new").exists());
    assert!(sandbox.rootfs().join("etc/group").exists());
}

#[test]
fn no_descriptor_of_the_agent_is_left() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "cd /proc/self/fd && echo *; cat /proc/self/oom_score_adj; \
                  grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2";
    let out = output(&sandbox, script, |_| ());
    let lines: Vec<&str> = out.lines().collect();
    let [descriptors, score, blocked, ignored] = lines[..] else { panic!("{out}") };
    // The shell opens the directory for its pattern.
    assert!(matches!(descriptors, "0 1 2" | "0 1 2 3"), "{descriptors}");
    assert_eq!((score, blocked), ("0", "0000000000000000"));
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & (1 << (libc::SIGPIPE - 1)), 0);
}

#[test]
fn paths_are_masked_and_read_only() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "cat /proc/uptime | wc -c; ls /sys/firmware | wc -l; \
                  (echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo read-only; \
                  (mkdir /sys/fs/cgroup/x) 2>/dev/null || echo read-only; \
                  ls -l /dev/null /dev/tty | cut -c1-10; readlink /dev/fd; readlink /dev/stdout; \
                  readlink /dev/ptmx; echo -n lost > /dev/null; head -c3 /dev/zero | od -An -tx1";
    let expected = "0\n0\nread-only\nread-only\ncrw-rw-rw-\ncrw-rw-rw-\n/proc/self/fd\n\
                    /proc/self/fd/1\npts/ptmx\n 00 00 00\n";
    let out = output(&sandbox, script, |spec| {
        spec["linux"]["maskedPaths"] = json!(["/proc/uptime", "/sys/firmware", "/no/such"]);
    });
    assert_eq!(out, expected);
}

#[test]
fn capabilities_are_those_of_the_spec() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    // CHOWN, KILL, SETGID, SETUID, NET_BIND_SERVICE.
    let own = "00000000000004e1";
    let none = "0000000000000000";
    let status = |inheritable: &str, set: &str, bounding: &str, ambient: &str, nnp: u8| {
        format!(
            "CapInh:\t{inheritable}\nCapPrm:\t{set}\nCapEff:\t{set}\nCapBnd:\t{bounding}\n\
             CapAmb:\t{ambient}\nNoNewPrivs:\t{nnp}\n"
        )
    };
    assert_eq!(output(&sandbox, script, |_| ()), status(none, own, own, none, 1));
    let lacking = output(&sandbox, script, |spec| {
        spec["process"]["capabilities"] = json!(null);
        spec["process"]["noNewPrivileges"] = json!(false);
    });
    assert_eq!(lacking, status(none, none, none, none, 0));
    let ambient = output(&sandbox, script, |spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        for set in ["ambient", "inheritable"] {
            spec["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
    });
    let kill = "0000000000000020";
    assert_eq!(ambient, status(kill, kill, own, kill, 1));
}

#[test]
fn users_are_found_in_the_image_and_own_their_output() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "id -u; id -g; id -G; echo $HOME; pwd; echo again > /dev/stdout; umask; ulimit -n";
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.user = user("web");
        request.spec = changed(&["sh", "-c", script], |spec| {
            spec["process"]["cwd"] = json!("/home/web/made/here");
        });
    });
    assert_eq!((status.code, err.as_str()), (0, ""));
    assert_eq!(out, "1000\n1000\n1000 2000\n/home/web\n/home/web/made/here\nagain\n0022\n512\n");
    let (_, out, _) = sandbox.run_changed("c", &["id"], |r| r.user = user("4711:extra"));
    assert_eq!(out, "uid=4711 gid=2000(extra)\n");
}

#[test]
fn a_read_only_root_stays_so() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script =
        "(echo x > /tmp/x) 2>/dev/null || echo read-only; echo x > /dev/shm/x && echo fine";
    let out = output(&sandbox, script, |spec| spec["root"]["readonly"] = json!(true));
    assert_eq!(out, "read-only\nfine\n");
    for directory in ["proc", "dev", "sys"] {
        fs::create_dir(sandbox.rootfs().join(directory)).unwrap();
    }
    let (_, out, err) = sandbox.run_changed("c", &["sh", "-c", script], |request| {
        request.rootfs.writable = WritableLayer::None;
    });
    assert_eq!((out.as_str(), err.as_str()), ("read-only\nfine\n", ""));
}

#[test]
fn mounts_stay_inside_the_root_whatever_the_image_links_to() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "bound\n").unwrap();
    symlink("/run", sandbox.rootfs().join("link")).unwrap();
    symlink("../../../../../../etc", sandbox.rootfs().join("up")).unwrap();
    let source = outside.path().join("file");
    let out = output(
        &sandbox,
        "cat /run/bound /etc/hosts; df -P /run/deep/tmpfs | tail -1 | cut -d' ' -f1; \
         (echo x > /etc/hosts) 2>/dev/null || echo read-only",
        |spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            let bind = |destination: &str| {
                json!({"destination": destination, "type": "bind", "source": source,
                       "options": ["rbind", "ro", "rprivate"]})
            };
            mounts.push(bind("/link/bound"));
            mounts.push(bind("/up/hosts"));
            mounts.push(json!({"destination": "/link/deep/tmpfs", "type": "tmpfs",
                               "source": "scratch", "options": ["size=1m", "ro"]}));
        },
    );
    assert_eq!(out, "bound\nbound\nscratch\nread-only\n");
    assert!(!sandbox.rootfs().join("run/bound").exists());
}

#[test]
fn each_container_has_a_network_of_its_own_with_lo_up() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let out = output(&sandbox, "ip -o link | cut -d' ' -f2,3; hostname", |_| ());
    assert!(out.starts_with("lo: <LOOPBACK,UP,LOWER_UP>\n"), "{out}");
    assert!(out.ends_with("sealed\n"), "{out}");
}

#[test]
fn kernel_parameters_and_devices_of_the_spec_are_there() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni; \
                  ls -ln /dev/mine | cut -c1-10; umask; cat /proc/self/oom_score_adj";
    let out = output(&sandbox, script, |spec| {
        spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"});
        spec["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3,
                                           "fileMode": 0o640, "uid": 5, "gid": 6}]);
        spec["process"]["user"]["umask"] = json!(0o077);
        spec["process"]["oomScoreAdj"] = json!(500);
    });
    assert_eq!(out, "1\n77\ncrw-r-----\n0077\n500\n");
}

#[test]
fn a_container_cannot_fork_beyond_its_limit() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    if !sandbox.has_controller("pids") {
        return;
    }
    let (status, _, err) = sandbox.run_changed("c", &[], |request| {
        let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done";
        request.spec = changed(&["sh", "-c", script], |spec| {
            spec["linux"]["resources"] = json!({"pids": {"limit": 5}});
        });
    });
    assert_ne!(status.code, 0);
    assert!(err.contains("fork"), "{err}");
}

#[test]
fn sysctls_of_the_guest_are_refused() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let mut request = sandbox.request("c", &["true"], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/bin/sh"});
    });
    let (_, message) = sandbox.rpc().error(Request::Create(Box::new(request)));
    assert!(message.contains("kernel.core_pattern"), "{message}");
}

#[test]
fn devices_are_out_of_reach_unless_they_are_allowed() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    // The kernel's log: a device that opens everywhere, where it may.
    let script =
        "mknod /tmp/log c 1 11 && (exec 3</tmp/log) 2>/dev/null && echo open || echo closed";
    let mknod = |spec: &mut serde_json::Value| {
        for set in ["bounding", "effective", "permitted"] {
            let set = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            set.extend([json!("CAP_MKNOD"), json!("CAP_SYSLOG")]);
        }
    };
    assert_eq!(output(&sandbox, script, mknod), "closed\n");
    let out = output(&sandbox, script, |spec| {
        mknod(spec);
        spec["linux"]["resources"] = json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
        ]});
    });
    assert_eq!(out, "open\n");
}

#[test]
fn keys_of_the_agent_are_not_the_containers() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    // Without privileges, only what the process possesses is shown.
    let keyring = || {
        output(&sandbox, "grep ' keyring .*_ses: ' /proc/keys | cut -d' ' -f1", |spec| {
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
    };
    let (first, second) = (keyring(), keyring());
    assert_eq!((first.lines().count(), second.lines().count()), (1, 1), "{first}{second}");
    assert_ne!(first, second);
}
