//! SIGKILL of any process at any moment: `delete --force` then leaves nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Created, Lab, WAITS, adopt_orphans, await_end, exit_code, until};
use crate::needs_sandboxes;
use crate::support::{Finished, code, read_until};

/// A lab whose containers have a control group of the host.
fn lab() -> (Lab, PathBuf) {
    let lab = Lab::shell(WAITS);
    let group = group(&lab);
    let name = Path::new("/").join(group.file_name().unwrap());
    lab.change(|config| config["linux"]["cgroupsPath"] = name.to_str().into());
    (lab, group)
}

fn group(lab: &Lab) -> PathBuf {
    let name = lab.path("").file_name().unwrap().to_str().unwrap().to_owned();
    Path::new("/sys/fs/cgroup").join(format!("ampoule{name}"))
}

fn running(lab: &Lab) -> Created {
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    created
}

fn sigkill(pid: i32) {
    // It may just have ended.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    await_end(pid);
}

/// Removes what there is, and sees that it was all; the id can be used again.
#[track_caller]
fn nothing_is_left_after_delete(lab: &Lab, group: &Path) {
    lab.ok(&["delete", "--force", "c"]);
    assert_eq!(lab.left(), [""; 0]);
    assert!(!group.exists(), "{} is left", group.display());
}

#[test]
fn a_killed_monitor_ends_its_container() {
    needs_sandboxes!();
    adopt_orphans();
    let (lab, group) = lab();
    let _created = running(&lab);
    assert!(group.is_dir());
    let pid = lab.pid("c");
    let [monitor] = lab.doing("monitor")[..] else { panic!("{:?}", lab.processes()) };
    sigkill(monitor);
    assert_eq!(exit_code(pid), 255);
    let state = lab.state("c");
    assert_eq!(state["status"], "stopped");
    assert!(state["error"].as_str().unwrap().contains("monitor"), "{state}");
    lab.output(&["kill", "c"]).fails(1, &["container not running"]);
    nothing_is_left_after_delete(&lab, &group);
}

#[test]
fn a_killed_keeper_ends_its_sandbox() {
    needs_sandboxes!();
    let (lab, group) = lab();
    let _created = running(&lab);
    let [monitor] = lab.doing("monitor")[..] else { panic!("{:?}", lab.processes()) };
    sigkill(lab.pid("c"));
    await_end(monitor);
    let state = lab.state("c");
    assert_eq!((&state["status"], &state["pid"]), (&"stopped".into(), &0.into()));
    lab.output(&["exec", "c", "true"]).fails(255, &["cannot exec in a stopped container"]);
    nothing_is_left_after_delete(&lab, &group);
}

/// Starts a `create`, kills one of its processes when the moment has come, and looks at what is left.
fn killed_at(
    moment: &str,
    come: impl Fn(&Lab) -> bool,
    victim: impl Fn(&Lab, &Child) -> Option<i32>,
) -> (Lab, PathBuf) {
    let (lab, group) = lab();
    let mut command = lab.command(["create", "c"]);
    let mut create = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(|| come(&lab));
    let pid = victim(&lab, &create).unwrap_or_else(|| panic!("{moment}: {:?}", lab.processes()));
    println!("{moment}: {pid} is killed");
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    let code = code(create.wait().unwrap());
    println!("{moment}: create ended with {code}");
    nothing_is_left_after_delete(&lab, &group);
    (lab, group)
}

/// Nothing is in the way of another container of this id.
fn can_be_made_again((lab, group): (Lab, PathBuf)) {
    let _created = running(&lab);
    nothing_is_left_after_delete(&lab, &group);
}

#[test]
fn a_killed_create_leaves_what_delete_removes() {
    needs_sandboxes!();
    let own = |_: &Lab, create: &Child| i32::try_from(create.id()).ok();
    killed_at("folder", |lab| lab.path("root/c").exists(), own);
    killed_at("keeper", |lab| lab.path("root/c/keeper").exists(), own);
    killed_at("monitor", |lab| !lab.doing("monitor").is_empty(), own);
    can_be_made_again(killed_at("record", |lab| lab.path("root/c/state.json").exists(), own));
}

/// The process that was forked off the command, and looks the same.
fn keeper(lab: &Lab, create: &Child) -> Option<i32> {
    let others = lab.processes().into_iter().filter(|(_, words)| words.ends_with("create c"));
    others.map(|(pid, _)| pid).find(|pid| *pid != i32::try_from(create.id()).unwrap())
}

/// A `create` whose keeper waits for a hook that does not end.
fn held_up(lab: &Lab) -> Child {
    let there = lab.text("there");
    lab.change(|config| {
        let script = format!("echo > {there}; exec sleep 60");
        config["hooks"] = serde_json::json!({
            "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
        });
    });
    let create = lab.spawn(&["create", "c"]);
    until(|| lab.path("there").exists());
    create
}

#[test]
fn a_keeper_that_is_killed_is_told_of_by_its_create_which_leaves_nothing() {
    needs_sandboxes!();
    let (lab, group) = lab();
    let create = held_up(&lab);
    assert!(group.exists());
    sigkill(keeper(&lab, &create).unwrap());
    let ended = Finished::of(create.wait_with_output().unwrap());
    ended.fails(1, &["keeper died (exit status 137)"]);
    assert_eq!(lab.left(), [""; 0]);
    assert!(!group.exists());
}

#[test]
fn a_keeper_that_a_hook_holds_up_is_ended_by_delete() {
    needs_sandboxes!();
    let (lab, group) = lab();
    let mut create = held_up(&lab);
    create.kill().unwrap();
    create.wait().unwrap();
    nothing_is_left_after_delete(&lab, &group);
}

#[test]
fn a_keeper_or_monitor_killed_while_it_creates_leaves_what_delete_removes() {
    needs_sandboxes!();
    let monitor = |lab: &Lab, _: &Child| lab.doing("monitor").first().copied();
    let group = |lab: &Lab| group(lab).exists();
    killed_at("keeper's cgroup", group, keeper);
    killed_at("keeper's monitor", |lab| !lab.doing("monitor").is_empty(), keeper);
    can_be_made_again(killed_at("monitor", |lab| !lab.doing("monitor").is_empty(), monitor));
}

#[test]
fn a_killed_run_leaves_a_container_that_can_be_deleted() {
    needs_sandboxes!();
    let (lab, group) = lab();
    let mut run = lab.spawn(&["run", "c"]);
    read_until(run.stdout.as_mut().unwrap(), "ready\n");
    run.kill().unwrap();
    run.wait().unwrap();
    nothing_is_left_after_delete(&lab, &group);
}

#[test]
fn a_killed_start_kill_or_delete_can_be_done_again() {
    needs_sandboxes!();
    let (lab, group) = lab();
    let mut created = lab.create("c", &[]);
    for args in [&["start", "c"][..], &["kill", "c", "USR2"], &["delete", "-f", "c"]] {
        let mut child = lab.command(args).stderr(Stdio::null()).spawn().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // Nothing holds a lock that nobody lets go of: each is answered, and says what is so.
    let state = lab.output(&["state", "c"]);
    if state.code != 0 {
        state.fails(1, &["does not exist"]);
    } else if state.stdout.contains("\"created\"") {
        lab.ok(&["start", "c"]);
        read_until(&mut created.stdout, "ready\n");
    }
    nothing_is_left_after_delete(&lab, &group);
}
