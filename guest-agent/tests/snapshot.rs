//! Before a snapshot and after a restore, as the host sees it; the snapshot itself is left out.

mod sandbox;

use std::fs;

use ampoule_protocol::message::{ErrorKind, ProcessId, Request, Stdio, Wake, WritableLayer};
use sandbox::{Rpc, Sandbox, can_run, exec, process, text, wake};

const IDENTITY: &str = "cat /proc/sys/kernel/random/boot_id /etc/machine-id";

/// What a process that joins the container prints.
fn seen_in(sandbox: &Sandbox, rpc: &Rpc, container: &str, name: &str, script: &str) -> String {
    let (stdio, pipes) = sandbox.pipes();
    let request = exec(container, name, &["sh", "-c", script], stdio);
    rpc.created(Request::Exec(Box::new(request)));
    assert_eq!(rpc.wait(process(container, name)).code, 0);
    text(pipes.stdout)
}

#[test]
fn a_template_lets_go_of_its_host_and_wakes_for_another() {
    if !can_run() {
        return;
    }
    let mut sandbox = Sandbox::start();
    let _rpc = sandbox.woken_from_template(false);
    let (status, out, err) = sandbox.run("c", &["sh", "-c", "echo awake"]);
    assert_eq!((status.code, out.as_str(), err.as_str()), (0, "awake\n", ""));
    // The new connection is the host now: its end is the guest's.
    assert_eq!(sandbox.abandon(), 0);
}

#[test]
fn a_guest_with_containers_is_no_template() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["true"], Stdio::default());
    rpc.created(Request::Create(Box::new(request)));
    assert_eq!(rpc.error(Request::BecomeTemplate { networked: false }).0, ErrorKind::WrongState);
    rpc.done(Request::Delete { container: "c".into() });
    rpc.done(Request::BecomeTemplate { networked: false });
    rpc.done(Request::Shutdown);
}

#[test]
fn each_wake_gives_another_identity() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    fs::write(sandbox.rootfs().join("etc/machine-id"), "of the image\n").unwrap();
    let kernels = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    let first = seen_in(&sandbox, &rpc, "c", "first", IDENTITY);
    assert_eq!(first.lines().map(str::len).collect::<Vec<_>>(), [36, 32]);
    assert!(!first.starts_with(&kernels));
    assert!(!first.contains("of the image"));

    let script = format!("{IDENTITY}; hostname");
    for n in [1, 2] {
        let wake = wake(n);
        rpc.done(Request::Wake(Box::new(wake.clone())));
        // In a container that runs, and in a new one, whose spec names its host itself.
        let expected = format!("{}\n{}\n", wake.boot_id, wake.machine_id);
        let seen = seen_in(&sandbox, &rpc, "c", &format!("after-{n}"), &script);
        assert_eq!(seen, format!("{expected}{}\n", wake.hostname));
        let (_, seen, _) = sandbox.run("new", &["sh", "-c", &script]);
        assert_eq!(seen, format!("{expected}sealed\n"));
    }
}

#[test]
fn an_identity_is_read_only_and_shown_where_the_image_has_one() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "ls /etc/machine-id 2>/dev/null; \
                  (echo x > /proc/sys/kernel/random/boot_id) 2>/dev/null || echo read-only";
    assert_eq!(sandbox.run("c", &["sh", "-c", script]).1, "read-only\n");

    // A link is the image's own affair, wherever it points.
    let outside = sandbox.rootfs().with_file_name("outside");
    fs::write(&outside, "not mine\n").unwrap();
    std::os::unix::fs::symlink("../../outside", sandbox.rootfs().join("etc/machine-id")).unwrap();
    assert_eq!(sandbox.run("c", &["readlink", "/etc/machine-id"]).1, "../../outside\n");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "not mine\n");

    fs::remove_file(sandbox.rootfs().join("etc/machine-id")).unwrap();
    fs::write(sandbox.rootfs().join("etc/machine-id"), "of the image\n").unwrap();
    let script =
        "(echo x > /etc/machine-id) 2>/dev/null || echo read-only; wc -c < /etc/machine-id";
    for writable in [WritableLayer::None, WritableLayer::Tmpfs { size: None }] {
        for directory in ["proc", "dev", "sys"] {
            fs::create_dir_all(sandbox.rootfs().join(directory)).unwrap();
        }
        let (_, out, err) = sandbox.run_changed("c", &["sh", "-c", script], |request| {
            request.rootfs.writable = writable;
        });
        assert_eq!((out.as_str(), err.as_str()), ("read-only\n33\n", ""));
    }
}

#[test]
fn a_container_without_proc_has_no_boot_id_and_works() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        let script = "ls /proc; echo fine";
        request.spec = sandbox::changed(&["sh", "-c", script], |spec| {
            spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/proc");
        });
    });
    assert_eq!((status.code, out.as_str()), (0, "fine\n"), "{err}");
}

#[test]
fn a_wake_that_makes_no_sense_is_refused() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let changes: [fn(&mut Wake); 4] = [
        |wake| wake.seed.clear(),
        |wake| wake.boot_id = "no uuid".into(),
        |wake| wake.machine_id = "../../etc/passwd".into(),
        |wake| wake.hostname = "a b".into(),
    ];
    for change in changes {
        let mut wake = wake(1);
        change(&mut wake);
        let (kind, message) = rpc.error(Request::Wake(Box::new(wake)));
        assert_eq!(kind, ErrorKind::InvalidArgument, "{message}");
    }
    let (_, seen, _) = sandbox.run("c", &["cat", "/proc/sys/kernel/random/boot_id"]);
    assert_ne!(seen.trim_end(), wake(1).boot_id);
}
