//! stdin, stdout and stderr, byte for byte; exit codes; signals.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use crate::needs_sandboxes;
use crate::support::{Ampoule, code, read_until, signal};

#[test]
fn stdout_and_stderr_are_kept_apart_and_the_exit_code_is_the_programs() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let done = ampoule.shell(&[], "busybox", "echo out; echo err >&2; exit 42");
    done.gives(42, "out\n");
    assert_eq!(done.stderr, "err\n");
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn ten_mebibytes_come_back_with_the_same_hash() {
    needs_sandboxes!();
    let mut bytes = vec![0u8; 10 << 20];
    getrandom::fill(&mut bytes).unwrap();
    let hash = Sha256::digest(&bytes);
    let output = Ampoule::new().with_input(&["run", "--rm", "-i", "busybox", "cat"], bytes);
    assert_eq!(code(output.status), 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Sha256::digest(&output.stdout), hash);
    assert!(output.stderr.is_empty());
}

#[test]
fn standard_error_is_byte_exact_too() {
    needs_sandboxes!();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let args = ["run", "--rm", "-i", "busybox", "sh", "-c", "cat >&2"];
    let output = Ampoule::new().with_input(&args, bytes.clone());
    assert!(output.stderr == bytes && output.stdout.is_empty());
}

#[test]
fn without_interactive_the_program_reads_an_end_of_file() {
    needs_sandboxes!();
    let output = Ampoule::new()
        .with_input(&["run", "--rm", "busybox", "sh", "-c", "cat; echo end"], b"unread".to_vec());
    assert_eq!(output.stdout, b"end\n");
}

#[test]
fn standard_streams_can_be_opened_again_by_path_also_without_root() {
    needs_sandboxes!();
    let script = "echo a > /dev/stdout; echo b > /dev/stderr; echo c > /proc/self/fd/1";
    let done = Ampoule::new().shell(&["-u", "1000:1000"], "busybox", script);
    done.gives(0, "a\nc\n");
    assert_eq!(done.stderr, "b\n");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let mut child = ampoule.spawn(&["run", "--rm", "busybox", "yes"]);
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0u8; 4];
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(&first, b"y\ny\n");
    // 128 + SIGPIPE, or 1 where busybox reports the failed write instead.
    assert!([1, 141].contains(&code(child.wait().unwrap())));
}

#[test]
fn signals_reach_the_program() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    for (sent, name, status) in [(Signal::SIGTERM, "TERM", 7), (Signal::SIGINT, "INT", 8)] {
        let script = format!(
            "trap 'echo got {name}; exit {status}' {name}; echo ready; while :; do sleep 0.1; done"
        );
        let mut child = ampoule.spawn(&["run", "--rm", "busybox", "sh", "-c", &script]);
        read_until(child.stdout.as_mut().unwrap(), "ready\n");
        signal(&child, sent);
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("got {name}\n"));
        assert_eq!(code(output.status), status);
    }
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_program_that_a_signal_ended_gives_128_and_the_signal() {
    needs_sandboxes!();
    let done =
        Ampoule::new().shell(&[], "busybox", "(kill -TERM $$) & sh -c 'kill -SEGV $$'; exit $?");
    assert!([139, 143].contains(&done.code), "{done:?}");
}

#[test]
fn a_program_deaf_to_three_requests_is_killed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let mut child = ampoule.spawn(&["run", "--rm", "busybox", "sh", "-c", script]);
    read_until(child.stdout.as_mut().unwrap(), "ready\n");
    // One at a time: signals of one kind that wait together are one signal.
    while child.try_wait().unwrap().is_none() {
        signal(&child, Signal::SIGTERM);
        std::thread::yield_now();
    }
    assert_eq!(code(child.wait().unwrap()), 137);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn output_to_a_full_disk_is_told() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = ampoule.command(["run", "--rm", "busybox", "echo", "x"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("could not be written") && told.contains("No space left"), "{told}");
}
