//! `ampoule bench start`.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::needs_sandboxes;
use crate::support::{Ampoule, code, signal, skip};

/// Names of what lies in the folder of temporary files.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn sandboxes_take_turns_with_crun_and_who_is_missing_is_named() {
    needs_sandboxes!();
    for (program, package) in [("crun", "crun"), ("fsck.erofs", "erofs-utils")] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("needs {package}"));
        }
    }
    let ampoule = Ampoule::new();
    let folder = tempfile::tempdir().unwrap();
    let (json, svg) = (folder.path().join("b.json"), folder.path().join("b.svg"));
    let mut command = ampoule.command(["bench", "start", "--mode", "cold", "--runs", "2"]);
    command.args(["--compare", "crun", "--compare", "firecracker=/nonexistent/vmm"]);
    command.arg("--json").arg(&json).arg("--svg").arg(&svg).env("TMPDIR", folder.path());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for words in ["missing: firecracker: there is no /nonexistent/vmm", "ampoule cold / crun"] {
        assert!(stdout.contains(words), "{words:?} is missing in {stdout}");
    }

    let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let names_of = |list: &serde_json::Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names_of(&report["entrants"]), ["ampoule cold", "crun"]);
    assert_eq!(names_of(&report["missing"]), ["firecracker"]);
    for entrant in report["entrants"].as_array().unwrap() {
        let rounds = entrant["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2);
        let total = |round: &serde_json::Value| round["starts"][0]["total_us"].as_f64().unwrap();
        let (first, second) = (total(&rounds[0]), total(&rounds[1]));
        let spread = &entrant["total_us"];
        assert_eq!(spread["min"].as_f64(), Some(first.min(second)));
        assert_eq!(spread["max"].as_f64(), Some(first.max(second)));
    }
    let start = &report["entrants"][0]["rounds"][0]["starts"][0];
    let phases = start["phases"].as_array().unwrap();
    let sum: u64 = phases.iter().map(|phase| phase["us"].as_u64().unwrap()).sum();
    assert_eq!(sum, start["total_us"].as_u64().unwrap());
    assert!(phases.iter().all(|phase| phase["us"].as_u64().unwrap() > 0), "{phases:?}");
    let ratio = &report["ratios"][0];
    assert!(ratio["low"].as_f64().unwrap() <= ratio["high"].as_f64().unwrap());

    assert!(fs::read_to_string(&svg).unwrap().trim_end().ends_with("</svg>"));
    let mut left = names(folder.path());
    left.sort();
    assert_eq!(left, ["b.json", "b.svg"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "start", "--mode", "cold", "--concurrency", "2", "--json"];
    let mut command = ampoule.command(args);
    command.arg(folder.path().join("b.json")).args(["sleep", "1000"]);
    let mut child = command.env("TMPDIR", folder.path()).spawn().unwrap();
    // Two containers, for as long as nobody ends them.
    while ampoule.ok(&["ps"]).matches("Up ").count() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the benchmark has ended");
    }
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(output.status), 130);
    assert_eq!(ampoule.left(), [""; 0]);
    assert_eq!(ampoule.processes(), [0; 0]);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_start_that_fails_ends_the_benchmark_with_its_words() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let args = ["bench", "start", "--mode", "cold", "sh", "-c", "echo no luck >&2; exit 3"];
    ampoule.output(&args).fails(125, &["ampoule cold", "exit status: 3", "no luck"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    let ampoule = Ampoule::new();
    let refused = |args: &[&str], words: &[&str]| {
        ampoule.output(&[&["bench", "start"], args].concat()).fails(125, words);
    };
    refused(&[], &["--mode"]);
    refused(&["--mode", "hot"], &["hot", "cold, warm, fork"]);
    refused(&["--mode", "cold", "--mode", "cold"], &["--mode cold is named twice"]);
    refused(&["--mode", "cold", "--runs", "0"], &["--runs"]);
    refused(&["--mode", "cold", "--concurrency", "1001"], &["--concurrency"]);
    refused(&["--mode", "cold", "--compare", "docker"], &["docker", "crun, runc"]);
    refused(&["--mode", "cold", "--image", "nosuch"], &["nosuch"]);
    let folder = ["--mode", "cold", "--json", "/nonexistent/b.json"];
    refused(&folder, &["cannot write /nonexistent/b.json"]);
}
