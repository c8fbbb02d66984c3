//! Mounts and their options, hooks, shares.

mod sandbox;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use ampoule_protocol::SHARES;
use ampoule_protocol::message::{
    ErrorKind, HookState, ProcessId, Request, RootfsSource, Stdio, WritableLayer,
};
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

fn add(spec: &mut Value, mount: Value) {
    push(&mut spec["mounts"], mount);
}

/// The error of a container that cannot be created.
fn refused(sandbox: &Sandbox, change: impl FnOnce(&mut Value)) -> (ErrorKind, String) {
    let mut request = sandbox.request("c", &[], Stdio::default());
    request.spec = changed(&["true"], change);
    sandbox.rpc().error(Request::Create(Box::new(request)))
}

#[test]
fn a_bind_mount_changes_what_its_options_name() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let source = sandbox.rootfs().join("secret");
    let options = |options: &str| {
        let list: Vec<&str> = options.split(' ').collect();
        let script = "grep ' /mnt ' /proc/self/mountinfo | cut -d' ' -f6";
        output(&sandbox, script, |spec| {
            add(
                spec,
                json!({"destination": "/mnt", "type": "bind", "source": source,
                             "options": list}),
            );
        })
    };
    assert_eq!(options("bind"), "rw,relatime\n");
    assert_eq!(options("rbind nosuid ro nodev"), "ro,nosuid,nodev,relatime\n");
    assert_eq!(options("rbind ro noexec rw"), "rw,noexec,relatime\n");
    assert_eq!(options("bind noatime nosymfollow"), "rw,noatime,nosymfollow\n");
    assert_eq!(options("rbind rro rnosuid"), "ro,nosuid,relatime\n");
}

#[test]
fn recursive_options_reach_the_mounts_below() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    // The guest's /sys/fs has /sys/fs/cgroup mounted in it.
    let flags = |options: &[&str]| {
        let script = "grep ' /mnt/cgroup ' /proc/self/mountinfo | cut -d' ' -f6 | cut -c1-2 | uniq";
        output(&sandbox, script, |spec| {
            add(
                spec,
                json!({"destination": "/mnt", "type": "bind", "source": "/sys/fs",
                             "options": options}),
            );
        })
    };
    assert_eq!(flags(&["rbind", "ro"]), "rw\n");
    assert_eq!(flags(&["rbind", "rro"]), "ro\n");
    assert_eq!(flags(&["bind", "rro"]), "");
}

#[test]
fn propagation_is_as_asked() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let field = |options: &[&str], root: Option<&str>, at: &str| {
        let script =
            format!("awk '$5 == \"{at}\" {{print $7}}' /proc/self/mountinfo | cut -d: -f1");
        output(&sandbox, &script, |spec| {
            add(spec, json!({"destination": "/mnt", "type": "tmpfs", "options": options}));
            if let Some(root) = root {
                spec["linux"]["rootfsPropagation"] = json!(root);
            }
        })
    };
    assert_eq!(field(&[], None, "/mnt"), "-\n");
    assert_eq!(field(&["shared"], None, "/mnt"), "shared\n");
    assert_eq!(field(&["unbindable"], None, "/mnt"), "unbindable\n");
    assert_eq!(field(&[], Some("shared"), "/"), "shared\n");
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let home = sandbox.rootfs().join("home/web");
    fs::write(home.join("file"), "text").unwrap();
    symlink("file", home.join("link")).unwrap();
    chown(&home, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o715)).unwrap();
    let script = "cat /home/web/link; stat -c ' %u %a %F' /home/web /home/web/link; \
                  stat -f -c %T /home/web; echo x > /home/web/file";
    let mount = |options: Value| json!({"destination": "/home/web", "type": "tmpfs", "source": "tmpfs", "options": options});
    let out = output(&sandbox, script, |spec| add(spec, mount(json!(["tmpcopyup"]))));
    assert_eq!(out, "text 1000 715 directory\n 0 777 symbolic link\ntmpfs\n");
    assert_eq!(fs::read_to_string(home.join("file")).unwrap(), "text");
    let out = output(&sandbox, "ls -A /home/web", |spec| add(spec, mount(json!([]))));
    assert_eq!(out, "");
    let (_, message) = refused(&sandbox, |spec| {
        add(spec, json!({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}));
    });
    assert!(message.contains("tmpcopyup needs a tmpfs"), "{message}");
}

#[test]
fn a_bind_mount_with_nothing_in_it_begins_with_what_it_covers() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let home = sandbox.rootfs().join("home/web");
    fs::write(home.join("file"), "text").unwrap();
    chown(&home, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o715)).unwrap();
    let volume = tempfile::tempdir().unwrap();
    let mount = json!({"destination": "/home/web", "type": "bind", "source": volume.path(),
        "options": ["rbind", "tmpcopyup", "ro"]});
    let script =
        "cat /home/web/file; stat -c ' %u %a' /home/web; touch /home/web/x 2> /dev/null || echo ro";
    let out = output(&sandbox, script, |spec| add(spec, mount.clone()));
    assert_eq!(out, "text 1000 715\nro\n");
    // What is in it by now stays.
    fs::write(volume.path().join("file"), "own").unwrap();
    fs::write(home.join("new"), "new").unwrap();
    let out = output(&sandbox, "cat /home/web/file; ls /home/web", |spec| add(spec, mount.clone()));
    assert_eq!(out, "ownfile\n");
}

#[test]
fn ids_of_a_mount_are_mapped() {
    if !can_run() || !can_map_ids() {
        return;
    }
    let sandbox = Sandbox::start();
    let source = sandbox.rootfs().join("secret");
    fs::write(source.join("file"), "").unwrap();
    chown(source.join("file"), Some(3), Some(3)).unwrap();
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    let script = "stat -c %u:%g /mnt/file";
    let mount = |options: Value| json!({"destination": "/mnt", "type": "bind", "source": source, "options": options});
    let out = output(&sandbox, script, |spec| {
        let mut mount = mount(json!(["bind", "idmap"]));
        mount["uidMappings"] = ids.clone();
        mount["gidMappings"] = ids.clone();
        add(spec, mount);
    });
    assert_eq!(out, "1003:1003\n");
    // With the container's own users, the file's ids are the container's.
    let out = output(&sandbox, script, |spec| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for map in ["uidMappings", "gidMappings"] {
            spec["linux"][map] = json!([{"containerID": 0, "hostID": 5000, "size": 100}]);
        }
        add(spec, mount(json!(["rbind", "ridmap"])));
    });
    assert_eq!(out, "3:3\n");
    let (kind, message) = refused(&sandbox, |spec| add(spec, mount(json!(["bind", "idmap"]))));
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(message.contains("/mnt"), "{message}");
}

#[test]
fn a_share_is_a_root_that_is_written_through() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start_with_share();
    let (status, out, err) = sandbox.run_changed("c", &["sh", "-c", "echo x > /tmp/new"], |r| {
        r.rootfs.source = RootfsSource::Share { tag: "bundle".into(), path: "rootfs".into() };
        r.rootfs.writable = WritableLayer::Source;
    });
    assert_eq!((status.code, out + &err), (0, String::new()));
    assert_eq!(fs::read_to_string(sandbox.rootfs().join("tmp/new")).unwrap(), "x\n");
    // Read-only is the spec's to say, or the request's.
    let run = |writable: WritableLayer, readonly: bool| {
        let (status, ..) = sandbox.run_changed("c", &[], |request| {
            request.rootfs.source =
                RootfsSource::Share { tag: "bundle".into(), path: "rootfs".into() };
            request.rootfs.writable = writable;
            request.spec = changed(&["touch", "/tmp/other"], |spec| {
                spec["root"]["readonly"] = json!(readonly);
            });
        });
        status.code
    };
    // The overlay's writes do not go through.
    assert_eq!(run(WritableLayer::Source, true), 1);
    assert_eq!(run(WritableLayer::Tmpfs { size: None }, false), 0);
    assert!(!sandbox.rootfs().join("tmp/other").exists());
}

#[test]
fn nothing_outside_a_share_is_reached() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start_with_share();
    let share = sandbox.rootfs().parent().unwrap().to_owned();
    fs::write(share.join("data"), "shared").unwrap();
    symlink("data", share.join("inside")).unwrap();
    symlink("/etc", share.join("absolute")).unwrap();
    symlink("../../../etc", share.join("up")).unwrap();
    let bind = |path: &str| {
        let source = format!("{SHARES}/bundle/{path}");
        json!({"destination": "/mnt/x", "type": "bind", "source": source, "options": ["bind"]})
    };
    for path in ["data", "inside"] {
        assert_eq!(output(&sandbox, "cat /mnt/x", |spec| add(spec, bind(path))), "shared");
    }
    for path in ["absolute", "up", "absolute/passwd", "../bundle/data", "none"] {
        let (_, message) = refused(&sandbox, |spec| add(spec, bind(path)));
        assert!(message.contains(path), "{path}: {message}");
    }
    let mut request = sandbox.request("c", &["true"], Stdio::default());
    request.rootfs.source = RootfsSource::Share { tag: "bundle".into(), path: "up".into() };
    request.rootfs.writable = WritableLayer::Source;
    let (_, message) = sandbox.rpc().error(Request::Create(Box::new(request)));
    assert!(message.contains("\"up\" of share \"bundle\""), "{message}");
}

#[test]
fn hooks_run_in_the_container() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script, "hook"], "env": ["PATH=/bin", "A=b"]}]);
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.identity = HookState { id: "outside-id".into(), bundle: "/bundles/c".into() };
        let script = "cat /tmp/creating; id -u; cat /tmp/starting";
        request.spec = changed(&["sh", "-c", script], |spec| {
            spec["annotations"] = json!({"colour": "red"});
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            spec["hooks"] = json!({
                "prestart": hook("exit 1"),
                "createRuntime": hook("exit 1"),
                "poststart": hook("exit 1"),
                "poststop": hook("exit 1"),
                "createContainer":
                    hook("chmod 777 /tmp; { cat; echo; echo $0 $A; id -u; } > /tmp/creating"),
                "startContainer": hook("{ cat; echo; id -u; } > /tmp/starting"),
            });
        });
    });
    assert_eq!((status.code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    let [creating, environment, root, user, starting, starter] = lines[..] else { panic!("{out}") };
    assert_eq!((environment, root, user, starter), ("hook b", "0", "1000", "1000"));
    let expected = |status: &str| {
        json!({"ociVersion": "1.2.0", "id": "outside-id", "status": status, "pid": 1,
               "bundle": "/bundles/c", "annotations": {"colour": "red"}})
    };
    assert_eq!(serde_json::from_str::<Value>(creating).unwrap(), expected("creating"));
    assert_eq!(serde_json::from_str::<Value>(starting).unwrap(), expected("created"));
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_container() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let hooks = |kind: &str, args: &[&str]| {
        let hook = json!([{"path": "/bin/sh", "args": args, "timeout": 1}]);
        json!({kind: hook})
    };
    let (_, message) = refused(&sandbox, |spec| {
        spec["hooks"] = hooks("createContainer", &["sh", "-c", "echo no room >&2; exit 3"]);
    });
    for part in ["createContainer hook #0", "/bin/sh", "exit status 3", "no room"] {
        assert!(message.contains(part), "{message}");
    }
    let (_, message) = refused(&sandbox, |spec| {
        spec["hooks"] = hooks("createContainer", &["sh", "-c", "while :; do :; done"]);
    });
    assert!(message.contains("timeout of 1 s"), "{message}");
    // startContainer hooks fail the start.
    let rpc = sandbox.rpc();
    let mut request = sandbox.request("c", &[], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["hooks"] = hooks("startContainer", &["sh", "-c", "exit 4"]);
    });
    rpc.created(Request::Create(Box::new(request)));
    let (_, message) = rpc.error(Request::Start(ProcessId::init("c")));
    assert!(message.contains("startContainer hook #0"), "{message}");
}
