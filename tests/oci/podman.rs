//! podman with ampoule-oci as its runtime.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::engine::{Engine, IMAGE, argument, folder, missing};
use crate::needs_sandboxes;
use crate::support::{Finished, code, read_until, skip};

macro_rules! engine {
    () => {{
        needs_sandboxes!();
        if let Some(reason) = missing("podman") {
            return skip(&reason);
        }
        Engine::shared()
    }};
}

const RUN: [&str; 4] = ["run", "--rm", "--network", "none"];

fn run(engine: &Engine, options: &[&str], script: &str) -> Finished {
    engine.output(&[&RUN, options, &[IMAGE, "sh", "-c", script]].concat())
}

/// Starts a container that waits.
fn detached(engine: &Engine, name: &str, options: &[&str]) -> String {
    let script = "trap 'echo ended; exit 3' TERM; trap 'echo usr1' USR1
        echo ready; while :; do sleep 0.2; done";
    let head = ["run", "--detach", "--network", "none", "--name", name];
    engine.ok(&[&head, options, &[IMAGE, "sh", "-c", script]].concat()).trim().to_owned()
}

#[test]
fn run_gives_code_output_and_input() {
    let engine = engine!();
    let done = run(
        &engine,
        &["-e", "A=1", "-w", "/tmp", "--hostname", "pod"],
        "echo $A $(pwd) $(hostname); echo err >&2; exit 42",
    );
    done.gives(42, "1 /tmp pod\n");
    assert_eq!(done.stderr, "err\n");
    let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let output = engine.with_input(&[&RUN[..], &["-i", IMAGE, "cat"]].concat(), bytes.clone());
    assert!(
        code(output.status) == 0 && output.stdout == bytes,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    run(&engine, &["-t"], "tty; exit 5").gives(5, "/dev/pts/0\r\n");
    let done = run(
        &engine,
        &["--user", "1000:1000", "--read-only"],
        "id -u; echo x > /file || echo refused",
    );
    done.gives(0, "1000\nrefused\n");
    let done = engine.output(&[&RUN[..], &[IMAGE, "no-such-program"]].concat());
    done.fails(127, &["no-such-program"]);
}

#[test]
fn a_detached_container_is_worked_with_and_stopped() {
    let engine = engine!();
    let id = detached(&engine, "worked", &[]);
    assert!(engine.keeps(&id));
    engine.output(&["exec", "worked", "sh", "-c", "echo in; exit 7"]).gives(7, "in\n");
    let piped = engine.with_input(&["exec", "-i", "worked", "cat"], b"through".to_vec());
    assert_eq!(piped.stdout, b"through");
    engine.output(&["exec", "-t", "worked", "tty"]).gives(0, "/dev/pts/0\r\n");
    engine.output(&["exec", "worked", "no-such"]).fails(127, &["no-such"]);
    engine.ok(&["kill", "--signal", "USR1", "worked"]);
    let mut follower = engine
        .command_of("podman", ["logs", "-f", "worked"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    read_until(follower.stdout.as_mut().unwrap(), "ready\nusr1\n");
    follower.kill().unwrap();
    follower.wait().unwrap();

    let inspected: Value = serde_json::from_str(&engine.ok(&["inspect", "worked"])).unwrap();
    let state = &inspected[0]["State"];
    assert_eq!((&state["Status"], &state["Running"]), (&"running".into(), &true.into()));
    let pid = state["Pid"].as_i64().unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("ampoule-oci"));
    assert_eq!(inspected[0]["OCIRuntime"], "ampoule-oci");

    assert!(engine.ok(&["top", "worked", "-o", "pid,args"]).contains("sleep 0.2"));
    let stats: Value =
        serde_json::from_str(&engine.ok(&["stats", "--no-stream", "--format", "json", "worked"]))
            .unwrap();
    assert_eq!(stats[0]["name"], "worked");
    assert!(stats[0]["mem_usage"].as_str().unwrap().contains("MB"), "{stats}");

    engine.ok(&["stop", "worked"]);
    assert!(engine.ok(&["logs", "worked"]).ends_with("ended\n"));
    assert_eq!(
        engine.ok(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "worked"]),
        "exited 3\n"
    );
    engine.ok(&["start", "worked"]);
    engine.output(&["rm", "worked"]).fails(2, &["running"]);
    engine.ok(&["rm", "--force", "--time", "0", "worked"]);
    assert!(!engine.keeps(&id));
}

#[test]
fn a_paused_container_stands_still() {
    let engine = engine!();
    detached(&engine, "paused", &[]);
    let status = || engine.ok(&["inspect", "--format", "{{.State.Status}}", "paused"]);
    engine.ok(&["pause", "paused"]);
    assert_eq!(status(), "paused\n");
    assert_ne!(engine.output(&["exec", "paused", "true"]).code, 0);
    engine.ok(&["unpause", "paused"]);
    assert_eq!(status(), "running\n");
    engine.output(&["exec", "paused", "echo", "on"]).gives(0, "on\n");
    engine.ok(&["rm", "--force", "--time", "0", "paused"]);
}

#[test]
fn files_are_copied_both_ways_and_committed() {
    let engine = engine!();
    detached(&engine, "copied", &[]);
    let host = folder(&engine, "copy");
    fs::write(host.join("in"), "from the host\n").unwrap();
    let path = |name: &str| argument(&host.join(name)).to_owned();
    engine.ok(&["cp", &path("in"), "copied:/root/in"]);
    engine.output(&["exec", "copied", "cat", "/root/in"]).gives(0, "from the host\n");
    engine.ok(&["exec", "copied", "sh", "-c", "echo from the guest > /root/out"]);
    engine.ok(&["cp", "copied:/root/out", &path("out")]);
    assert_eq!(fs::read_to_string(host.join("out")).unwrap(), "from the guest\n");

    engine.ok(&["kill", "copied"]);
    engine.ok(&["wait", "copied"]);
    engine.ok(&["cp", &path("in"), "copied:/root/later"]);
    engine.ok(&["cp", "copied:/root/out", &path("again")]);
    assert_eq!(fs::read_to_string(host.join("again")).unwrap(), "from the guest\n");
    assert!(engine.ok(&["diff", "copied"]).contains("A /root/out"));
    engine.ok(&["commit", "--quiet", "copied", "localhost/committed"]);
    let done = engine
        .output(&[&RUN[..], &["localhost/committed", "cat", "/root/out", "/root/later"]].concat());
    done.gives(0, "from the guest\nfrom the host\n");
    engine.ok(&["rm", "copied"]);
}

#[test]
fn volumes_are_shared_with_the_host_and_other_containers() {
    let engine = engine!();
    let host = folder(&engine, "volume");
    fs::write(host.join("given"), "given\n").unwrap();
    let (writable, fixed) =
        (format!("{}:/v", argument(&host)), format!("{}:/v:ro", argument(&host)));
    run(&engine, &["-v", &writable], "cat /v/given; echo made > /v/made").gives(0, "given\n");
    assert_eq!(fs::read_to_string(host.join("made")).unwrap(), "made\n");
    run(&engine, &["-v", &fixed], "cat /v/made; echo x > /v/made || echo refused")
        .gives(0, "made\nrefused\n");
    run(&engine, &["-v", "named:/data"], "echo kept > /data/file").gives(0, "");
    run(&engine, &["-v", "named:/data"], "cat /data/file").gives(0, "kept\n");
    run(&engine, &["--tmpfs", "/scratch:size=1m"], "echo x > /scratch/y; cat /scratch/y")
        .gives(0, "x\n");
}

#[test]
fn a_health_check_runs_in_the_container() {
    let engine = engine!();
    // Without a timer, which podman has systemd run.
    detached(
        &engine,
        "healthy",
        &["--health-cmd", "test -e /tmp/well", "--health-interval", "disable"],
    );
    assert_eq!(engine.output(&["healthcheck", "run", "healthy"]).code, 1);
    engine.ok(&["exec", "healthy", "touch", "/tmp/well"]);
    engine.ok(&["healthcheck", "run", "healthy"]);
    engine.ok(&["rm", "--force", "--time", "0", "healthy"]);
}

#[test]
fn the_hosts_network_is_refused_by_name() {
    let engine = engine!();
    let done = engine.output(&["run", "--rm", "--network", "host", IMAGE, "true"]);
    assert!([125, 126].contains(&done.code), "{done:?}");
    assert!(done.stderr.contains("another --network"), "{done:?}");
}

#[test]
fn the_default_network_leads_to_the_host_and_back() {
    let engine = engine!();
    if !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        return skip("needs the plugins of CNI, which lay podman's networks");
    }
    let listener = TcpListener::bind("0.0.0.0:4321").unwrap();
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    let script = "set -- $(ip route | grep ^default); echo hello | nc $3 4321; echo listening; \
                  nc -l -p 80";
    let options = ["run", "--detach", "--publish", "127.0.0.1:18080:80", "--name", "networked"];
    engine.ok(&[&options[..], &[IMAGE, "sh", "-c", script]].concat());
    assert_eq!(heard.join().unwrap(), "hello\n");
    let address = engine.ok(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.Networks.podman.IPAddress}}",
        "networked",
    ]);
    let address = format!("{}:80", address.trim());
    let mut stream = loop {
        match TcpStream::connect(&address) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.write_all(b"back\n").unwrap();
    drop(stream);
    engine.ok(&["wait", "networked"]);
    assert_eq!(engine.ok(&["logs", "networked"]), "listening\nback\n");
    engine.ok(&["rm", "networked"]);
}

#[test]
fn limits_size_the_machine() {
    let engine = engine!();
    let options = ["--memory", "96m", "--cpus", "2", "--annotation", "io.ampoule.memory-mib=300"];
    let script = "nproc; cat /sys/fs/cgroup/memory.max; grep MemTotal /proc/meminfo";
    let done = run(&engine, &options, script);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!((lines[0], lines[1]), ("2", "100663296"), "{done:?}");
    let total: u64 = lines[2].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((200_000..310_000).contains(&total), "{done:?}");
}
