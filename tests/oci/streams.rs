//! Standard streams byte for byte, exit codes, signals, and that what has stopped has written all.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, adopt_orphans, exit_code};
use crate::needs_sandboxes;
use crate::support::{code, read_until, signal};

#[test]
fn run_gives_the_programs_code_and_output_and_leaves_nothing() {
    needs_sandboxes!();
    let lab = Lab::shell("echo out; echo err >&2; echo $GREETING $(hostname); exit 42");
    let done = lab.output(&["run", "c"]);
    done.gives(42, "out\nhello lab\n");
    assert_eq!(done.stderr, "err\n");
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn regular_files_are_read_and_written_byte_for_byte() {
    needs_sandboxes!();
    let lab = Lab::shell("cat; cat /proc/self/fd/0 | wc -c >&2");
    let mut bytes = vec![0u8; 3 << 20];
    getrandom::fill(&mut bytes).unwrap();
    fs::write(lab.path("in"), &bytes).unwrap();
    let mut command = lab.command(["run", "c"]);
    command
        .stdin(File::open(lab.path("in")).unwrap())
        .stdout(File::create(lab.path("out")).unwrap())
        .stderr(File::create(lab.path("err")).unwrap());
    assert_eq!(code(command.status().unwrap()), 0);
    assert!(fs::read(lab.path("out")).unwrap() == bytes);
    assert_eq!(fs::read_to_string(lab.path("err")).unwrap(), "0\n");
}

#[test]
fn pipes_carry_both_ways_and_end() {
    needs_sandboxes!();
    let lab = Lab::new(&["cat"]);
    let mut bytes = vec![0u8; 1 << 20];
    getrandom::fill(&mut bytes).unwrap();
    let mut created = lab.start("c");
    let input = bytes.clone();
    let mut stdin = created.stdin.take().unwrap();
    let feeder = thread::spawn(move || std::io::Write::write_all(&mut stdin, &input).unwrap());
    let mut output = Vec::new();
    created.stdout.read_to_end(&mut output).unwrap();
    feeder.join().unwrap();
    assert!(output == bytes);
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn what_has_stopped_has_written_everything() {
    needs_sandboxes!();
    adopt_orphans();
    let script = "seq 1 20000; seq 1 20000 > /file; mkdir /folder; echo last > /folder/last";
    let lab = Lab::shell(script);
    let mut command = lab.command(["create", "c"]);
    command.stdout(File::create(lab.path("out")).unwrap()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let pid = lab.pid("c");
    lab.ok(&["start", "c"]);
    assert_eq!(exit_code(pid), 0);
    let all: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(lab.path("out")).unwrap() == all);
    assert!(fs::read_to_string(lab.rootfs().join("file")).unwrap() == all);
    assert_eq!(fs::read_to_string(lab.rootfs().join("folder/last")).unwrap(), "last\n");
    lab.ok(&["delete", "c"]);
}

#[test]
fn signals_of_the_caller_and_of_kill_reach_the_program() {
    needs_sandboxes!();
    adopt_orphans();
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM
        echo ready; while :; do sleep 0.1; done";
    let lab = Lab::shell(script);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    let pid = lab.pid("c");
    // To the process that callers know, and through the runtime, by name and number.
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    read_until(&mut created.stdout, "usr1\n");
    lab.ok(&["kill", "c", "SIGHUP"]);
    read_until(&mut created.stdout, "hup\n");
    lab.ok(&["kill", "c", "10"]);
    read_until(&mut created.stdout, "usr1\n");
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    read_until(&mut created.stdout, "term\n");
    assert_eq!(exit_code(pid), 7);
    lab.ok(&["delete", "c"]);

    let mut run = lab.spawn(&["run", "c"]);
    read_until(run.stdout.as_mut().unwrap(), "ready\n");
    signal(&run, Signal::SIGTERM);
    assert_eq!(code(run.wait().unwrap()), 7);
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_signal_for_all_reaches_every_process() {
    needs_sandboxes!();
    let script = "trap : USR1
        sh -c 'trap \"echo child; exit\" USR1; echo ready; while :; do sleep 0.1; done'
        echo parent";
    let lab = Lab::shell(script);
    let mut created = lab.start("c");
    read_until(&mut created.stdout, "ready\n");
    lab.ok(&["kill", "--all", "c", "USR1"]);
    read_until(&mut created.stdout, "child\nparent\n");
    lab.ok(&["delete", "-f", "c"]);
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    needs_sandboxes!();
    let lab = Lab::new(&["yes"]);
    let mut run = lab.spawn(&["run", "c"]);
    let mut first = [0u8; 4];
    run.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\ny\n");
    // 128 + SIGPIPE, or 1 where busybox reports the failed write instead.
    assert!([1, 141].contains(&code(run.wait().unwrap())));
    assert_eq!(lab.left(), [""; 0]);
}
