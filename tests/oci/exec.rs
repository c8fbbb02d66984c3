//! Further processes in a container.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::json;

use crate::lab::{Created, Lab, WAITS, adopt_orphans, exit_code};
use crate::needs_sandboxes;
use crate::support::{Finished, code, read_until};

fn running() -> (Lab, Created) {
    let lab = Lab::shell(WAITS);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    (lab, created)
}

#[test]
fn a_further_process_has_its_own_streams_code_and_what_was_asked_for() {
    needs_sandboxes!();
    let (lab, _created) = running();
    let done = lab.output(&["exec", "c", "sh", "-c", "echo out $GREETING; echo err >&2; exit 3"]);
    done.gives(3, "out hello\n");
    assert_eq!(done.stderr, "err\n");
    let options = [
        "exec",
        "-u",
        "1000:100",
        "-g",
        "7",
        "--cwd",
        "/tmp",
        "-e",
        "A=1",
        "c",
        "sh",
        "-c",
        "id; pwd; echo $A",
    ];
    lab.output(&options).gives(0, "uid=1000 gid=100 groups=7\n/tmp\n1\n");
    let capabilities = ["exec", "--cap", "NET_ADMIN", "c", "grep", "CapEff", "/proc/self/status"];
    let told = lab.ok(&capabilities);
    // The container's own have 0 where CAP_NET_ADMIN, the twelfth bit, is here.
    assert!(told.contains("880414fb"), "{told}");
    let mut cat = lab.spawn(&["exec", "c", "cat"]);
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    Finished::of(cat.wait_with_output().unwrap()).gives(0, "through");
    // It is in the container: sees its processes, and ends with it.
    assert!(lab.ok(&["exec", "c", "ps"]).contains("sleep 1"));
    lab.ok(&["delete", "-f", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn what_cannot_be_executed_is_told_and_gives_255() {
    needs_sandboxes!();
    let (lab, _created) = running();
    lab.output(&["exec", "c", "no-such"])
        .fails(255, &["exec failed", "no-such", "executable file not found in $PATH"]);
    lab.output(&["exec", "c", "/etc/passwd"])
        .fails(255, &["exec failed", "/etc/passwd", "permission denied"]);
    lab.output(&["exec", "c"]).fails(255, &["args cannot be empty"]);
    lab.output(&["exec", "--preserve-fds", "1", "c", "true"]).fails(255, &["--preserve-fds"]);
    lab.ok(&["exec", "c", "true"]);
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn a_detached_process_is_kept_by_one_that_exits_with_its_code() {
    needs_sandboxes!();
    adopt_orphans();
    let (lab, _created) = running();
    let process = json!({
        "cwd": "/tmp", "env": ["PATH=/bin", "B=2"], "user": {"uid": 0, "gid": 0},
        "args": ["sh", "-c", "echo $B $(pwd); read x; exit $x"],
    });
    fs::write(lab.path("process"), process.to_string()).unwrap();
    let pid_file = lab.text("pid");
    let mut command = lab.command([
        "exec",
        "--pid-file",
        &pid_file,
        "--process",
        &lab.text("process"),
        "--detach",
        "c",
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    assert_eq!(code(child.wait().unwrap()), 0);
    read_until(&mut stdout, "2 /tmp\n");
    let pid: i32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_ne!(pid, lab.pid("c"));
    stdin.write_all(b"11\n").unwrap();
    assert_eq!(exit_code(pid), 11);
    assert_eq!(lab.status("c"), "running");
    lab.ok(&["delete", "-f", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn further_processes_end_with_their_container() {
    needs_sandboxes!();
    adopt_orphans();
    let (lab, _created) = running();
    let mut exec = lab.spawn(&["exec", "c", "sh", "-c", WAITS]);
    read_until(exec.stdout.as_mut().unwrap(), "ready\n");
    let pid = lab.pid("c");
    lab.ok(&["kill", "c", "KILL"]);
    assert_eq!(exit_code(pid), 137);
    let ended = Finished::of(exec.wait_with_output().unwrap());
    assert_eq!(ended.code, 137, "{ended:?}");
    lab.ok(&["delete", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn regular_files_are_the_streams_of_further_processes_too() {
    needs_sandboxes!();
    let (lab, _created) = running();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    fs::write(lab.path("in"), &bytes).unwrap();
    let mut command = lab.command(["exec", "c", "cat"]);
    command
        .stdin(File::open(lab.path("in")).unwrap())
        .stdout(File::create(lab.path("out")).unwrap());
    assert_eq!(code(command.status().unwrap()), 0);
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn many_processes_at_once_each_have_their_own_output() {
    needs_sandboxes!();
    let (lab, _created) = running();
    let spawn = |number: usize| {
        lab.spawn(&["exec", "c", "sh", "-c", &format!("seq {number}; exit {number}")])
    };
    let children: Vec<_> = (1..=6).map(spawn).collect();
    for (number, mut child) in (1..=6).zip(children) {
        drop(child.stdin.take());
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, (1..=number).map(|n| format!("{n}\n")).collect::<String>());
        assert_eq!(code(child.wait().unwrap()), number);
    }
    lab.ok(&["delete", "-f", "c"]);
}
