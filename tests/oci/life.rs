//! create, start, state, kill, delete: a container's life, and what is said where it is not the time.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Lab, WAITS, adopt_orphans, await_end, exit_code, until};
use crate::needs_sandboxes;
use crate::support::{code, read_until};

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    needs_sandboxes!();
    let lab = Lab::shell("trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    lab.change(|config| config["annotations"] = serde_json::json!({"org.example": "yes"}));
    let pid_file = lab.text("pid");
    let mut created = lab.create("c", &["--pid-file", &pid_file]);
    let state = lab.state("c");
    assert_eq!(state["status"], "created");
    assert_eq!((&state["id"], &state["ociVersion"]), (&"c".into(), &"1.0.2".into()));
    assert_eq!(state["bundle"], lab.text("bundle"));
    assert_eq!(state["annotations"]["org.example"], "yes");
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].as_i64().unwrap().to_string(), pid, "a pid file has no newline");

    lab.ok(&["start", "c"]);
    read_until(&mut created.stdout, "ready\n");
    assert_eq!(lab.status("c"), "running");
    lab.output(&["start", "c"]).fails(1, &["cannot start an already running container"]);
    lab.output(&["delete", "c"]).fails(1, &["not stopped", "running"]);
    lab.output(&["create", "c"]).fails(1, &["already exists"]);
    lab.ok(&["kill", "c", "TERM"]);
    let mut rest = String::new();
    created.stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ended\n");
    await_end(pid.parse().unwrap());

    let state = lab.state("c");
    assert_eq!((&state["status"], &state["pid"]), (&"stopped".into(), &0.into()));
    lab.output(&["kill", "c"]).fails(1, &["container not running"]);
    lab.ok(&["kill", "--all", "c", "9"]);
    lab.output(&["start", "c"]).fails(1, &["cannot start a container that has stopped"]);
    lab.output(&["exec", "c", "true"]).fails(255, &["cannot exec in a stopped container"]);
    lab.ok(&["delete", "c"]);
    lab.output(&["state", "c"]).fails(1, &["does not exist"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn what_does_not_exist_is_told_in_the_words_that_callers_look_for() {
    let lab = Lab::new(&["true"]);
    for args in [&["state", "no"][..], &["start", "no"], &["kill", "no"], &["delete", "no"]] {
        lab.output(args).fails(1, &["container", "no", "does not exist"]);
    }
    lab.output(&["exec", "no", "true"]).fails(255, &["does not exist"]);
    lab.output(&["delete", "--force", "no"]).gives(0, "");
    lab.output(&["create", "../no"]).fails(1, &["invalid container ID format"]);
    lab.output(&["kill", "no", "NOSUCH"]).fails(1, &["NOSUCH"]);
    lab.output(&["create", "--bundle", "/nonexistent", "c"]).fails(1, &["/nonexistent"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn errors_are_lines_of_json_in_the_log_that_was_asked_for() {
    let lab = Lab::new(&["true"]);
    let log = lab.text("log.json");
    lab.output(&["--log", &log, "--log-format=json", "state", "no"]).fails(1, &["does not exist"]);
    lab.output(&["--log", &log, "--log-format=json", "--debug", "start", "gone"]).fails(1, &[]);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["level"], &last["msg"]),
        (&"error".into(), &"container \"gone\" does not exist".into())
    );
    assert!(lines[0]["msg"].as_str().unwrap().contains("\"no\"") && lines[0]["time"].is_string());
}

#[test]
fn the_process_that_callers_know_exits_with_the_programs_code() {
    needs_sandboxes!();
    adopt_orphans();
    let lab = Lab::shell("exit 42");
    let created = lab.create("c", &[]);
    let pid = lab.pid("c");
    lab.ok(&["start", "c"]);
    assert_eq!(exit_code(pid), 42);
    drop(created);
    lab.ok(&["delete", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_container_that_was_not_started_is_killed_or_deleted() {
    needs_sandboxes!();
    adopt_orphans();
    let lab = Lab::new(&["true"]);
    let _killed = lab.create("killed", &[]);
    let pid = lab.pid("killed");
    lab.ok(&["kill", "killed", "KILL"]);
    assert_eq!(exit_code(pid), 137);
    assert_eq!(lab.status("killed"), "stopped");
    lab.ok(&["delete", "killed"]);
    let _deleted = lab.create("deleted", &[]);
    let pid = lab.pid("deleted");
    lab.ok(&["delete", "deleted"]);
    assert_eq!(exit_code(pid), 137);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn limits_scores_and_sysctls_are_as_asked() {
    needs_sandboxes!();
    let lab = Lab::shell(
        "ulimit -n; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    lab.change(|config| {
        config["process"]["oomScoreAdj"] = 321.into();
        config["linux"]["sysctl"] = serde_json::json!({"net.ipv4.ip_unprivileged_port_start": "7"});
    });
    lab.output(&["run", "c"]).gives(0, "1024\n321\nNoNewPrivs:\t1\n7\n");
}

#[test]
fn a_running_container_is_deleted_by_force() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    lab.ok(&["delete", "--force", "c"]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_program_that_is_not_there_is_told_by_the_command_that_asked() {
    needs_sandboxes!();
    let lab = Lab::new(&["no-such-program"]);
    let done = lab.output(&["run", "c"]);
    done.fails(1, &["no-such-program", "executable file not found in $PATH"]);
    assert_eq!(lab.left(), [""; 0]);
    lab.change(|config| config["process"]["cwd"] = "/no/such/folder".into());
    lab.change(|config| config["process"]["args"] = serde_json::json!(["/bin/true"]));
    // As other runtimes do, a working directory is made where it is missing.
    lab.output(&["run", "c"]).gives(0, "");
}

#[test]
fn of_two_operations_at_once_one_succeeds() {
    needs_sandboxes!();
    let lab = Lab::shell(WAITS);
    let both = |args: &[&str]| {
        let mut command = lab.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut children = [command.spawn().unwrap(), command.spawn().unwrap()];
        let mut codes = children.each_mut().map(|child| code(child.wait().unwrap()));
        codes.sort_unstable();
        codes
    };
    assert_eq!(both(&["create", "c"]), [0, 1]);
    assert_eq!(lab.status("c"), "created");
    assert_eq!(both(&["start", "c"]), [0, 1]);
    assert_eq!(lab.status("c"), "running");
    // The second finds nothing left to do, which is no error.
    assert_eq!(both(&["delete", "--force", "c"]), [0, 0]);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn containers_that_run_detached_outlive_the_command() {
    needs_sandboxes!();
    let lab = Lab::shell("echo x > /new; mv /new /started; while :; do sleep 1; done");
    let pid_file = lab.text("pid");
    let mut command = lab.command(["run", "--detach", "--pid-file", &pid_file, "c"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    assert_eq!(lab.status("c"), "running");
    assert_eq!(lab.pid("c").to_string(), fs::read_to_string(pid_file).unwrap());
    until(|| lab.rootfs().join("started").exists());
    lab.ok(&["delete", "-f", "c"]);
    assert_eq!(fs::read_to_string(lab.rootfs().join("started")).unwrap(), "x\n");
    assert_eq!(lab.left(), [""; 0]);
}
