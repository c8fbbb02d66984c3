//! Many containers, and keepers, monitors and commands that are killed at any moment.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::needs_sandboxes;
use crate::support::Ampoule;

/// A number that a run of these tests may be given: more rounds take longer.
fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What the host has mounted below these folders; other tests mount meanwhile.
fn mounts_below(folders: &[&Path]) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
    let below = |mount: &String| folders.iter().any(|folder| Path::new(mount).starts_with(folder));
    mounts.filter(below).collect()
}

#[test]
fn many_are_run_a_few_at_a_time_and_nothing_is_left() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let (all, at_once) = (number("AMPOULE_TEST_MANY", 24), 8);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= all {
                        break;
                    }
                    let name = format!("c{number}");
                    let args = ["--name", &name, "busybox", "sh", "-c", "hostname; exit 3"];
                    match number % 3 {
                        0 => {
                            let run = ampoule.output(&[&["run", "--rm"], &args[..]].concat());
                            assert_eq!(run.code, 3, "{run:?}");
                        }
                        1 => {
                            ampoule.ok(&[&["create"], &args[..]].concat());
                            let started = ampoule.output(&["start", "-a", &name]);
                            assert_eq!(started.code, 3, "{started:?}");
                            ampoule.ok(&["rm", &name]);
                        }
                        _ => {
                            ampoule.ok(&[&["run", "-d"], &args[..]].concat());
                            ampoule.output(&["wait", &name]).gives(0, "3\n");
                            ampoule.ok(&["rm", "-f", &name]);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
    assert_eq!(mounts_below(&[ampoule.root(), ampoule.state()]), [""; 0]);
}

#[test]
fn whatever_is_killed_the_list_is_true_and_all_can_be_removed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    ampoule.ok(&["run", "--rm", "busybox", "true"]);
    for round in 0..number("AMPOULE_TEST_KILLS", 12) {
        let name = format!("r{round}");
        let script = "echo up; sleep 0.3; exit 5";
        let args = ["run", "-d", "--restart", "on-failure:1", "--name", &name];
        let mut command = ampoule.spawn(&[&args[..], &["busybox", "sh", "-c", script]].concat());
        // At another moment of its life each time: what there is then is killed, one or all.
        let moment = std::time::Duration::from_millis(fastrand::u64(0..1500));
        let began = std::time::Instant::now();
        let mut hit = false;
        while !hit {
            if began.elapsed() < moment {
                thread::yield_now();
                continue;
            }
            let mut there = ampoule.processes();
            fastrand::shuffle(&mut there);
            if round % 3 != 0 {
                there.truncate(1);
            }
            hit = !there.is_empty() || command.try_wait().unwrap().is_some();
            for pid in there {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        command.wait().unwrap();
        // The list says that it runs only where somebody keeps it.
        let listed = ampoule.output(&["ps", "-a", "--format", "json"]);
        assert_eq!(listed.code, 0, "{listed:?}");
        for line in listed.stdout.lines() {
            let told: serde_json::Value = serde_json::from_str(line).unwrap();
            if told["State"] == "running" {
                let exec = ampoule.output(&["exec", told["ID"].as_str().unwrap(), "true"]);
                // It may end meanwhile.
                assert!([0, 125, 137].contains(&exec.code), "round {round}: {exec:?}");
            }
        }
        // A keeper whose command was killed goes on, and its container comes to the list.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            for id in ampoule.ok(&["ps", "-aq"]).lines() {
                ampoule.ok(&["rm", "-f", id]);
            }
            if ampoule.processes().is_empty() {
                break;
            }
            assert!(
                std::time::Instant::now() < patience,
                "round {round}: {:?}",
                ampoule.processes()
            );
        }
        assert_eq!(ampoule.ok(&["ps", "-aq"]), "", "round {round}");
        // What was half made is the next start's to clear away.
        ampoule.ok(&["run", "--rm", "busybox", "true"]);
        assert_eq!(ampoule.processes(), [0; 0], "round {round}");
        assert_eq!(ampoule.left(), [""; 0], "round {round}");
    }
}

#[test]
fn a_full_disk_is_told_and_spoils_nothing() {
    needs_sandboxes!();
    if !nix::unistd::geteuid().is_root() {
        return crate::support::skip("needs root, to mount a file system that is full");
    }
    let ampoule = Ampoule::new();
    let full = ampoule.root().join("containers");
    fs::create_dir_all(&full).unwrap();
    let tmpfs = Some("tmpfs");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(tmpfs, &full, tmpfs, flags, Some("size=1m,mode=700")).unwrap();
    let run = |name: &str, script: &str| {
        ampoule.output(&[
            "run",
            "-d",
            "--read-only",
            "--log-opt",
            "max-size=-1",
            "--name",
            name,
            "busybox",
            "sh",
            "-c",
            script,
        ])
    };
    // Its log fills the disk: the program is told by its closed output, its end is written down.
    let talks =
        run("talks", "i=0; while [ $i -lt 100000 ]; do echo line $i || exit 9; i=$((i+1)); done");
    assert_eq!(talks.code, 0, "{talks:?}");
    ampoule.output(&["wait", "talks"]);
    let listed = ampoule.ok(&["ps", "-a"]);
    assert!(listed.contains("Exited (") && listed.contains("talks"), "{listed}");
    assert!(ampoule.ok(&["logs", "--tail", "1", "talks"]).starts_with("line "));
    // There is no room for another one.
    let refused = ampoule.output(&["create", "--name", "more", "busybox", "true"]);
    if refused.code != 0 {
        assert!(refused.stderr.contains("No space left"), "{refused:?}");
    }
    ampoule.ok(&["rm", "-f", "talks"]);
    assert_eq!(run("again", "echo room").code, 0);
    ampoule.output(&["wait", "again"]).gives(0, "0\n");
    ampoule.ok(&["rm", "-f", "again"]);
    nix::mount::umount(&full).unwrap();
}
