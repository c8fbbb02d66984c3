//! Guest memory: what a container frees goes back to the host.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::needs_sandboxes;
use crate::support::Ampoule;

const MIB: u64 = 1 << 20;

/// What the container writes and removes.
const FILE: u64 = 100 * MIB;

/// How long it may take until the host has it back: Linux waits two seconds before each of its
/// rounds, of which the first holds nearly all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The proportional share of memory of the only sandbox's monitor, in bytes.
fn memory(ampoule: &Ampoule) -> u64 {
    let state: serde_json::Value = serde_json::from_str(&ampoule.states()).unwrap();
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", state["monitor"])).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_that_a_container_frees_goes_back_to_the_host() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    // Removed at its end: its files are in memory.
    ampoule.ok(&["run", "-d", "--rm", "--name", "m", "busybox", "sleep", "1000"]);
    let before = memory(&ampoule);
    ampoule.ok(&["exec", "m", "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=100"]);
    let full = memory(&ampoule);
    assert!(full > before + FILE * 9 / 10, "{before} bytes, and {full} with the file");
    ampoule.ok(&["exec", "m", "rm", "/file"]);

    let start = Instant::now();
    let mut after = memory(&ampoule);
    while after + FILE * 3 / 4 > full {
        assert!(start.elapsed() < PATIENCE, "{after} of {full} bytes are still taken");
        thread::sleep(Duration::from_millis(100));
        after = memory(&ampoule);
    }
    let mib = |bytes: u64| bytes / MIB;
    println!(
        "MiB: {} before, {} with the file, {} after {:.1} s",
        mib(before),
        mib(full),
        mib(after),
        start.elapsed().as_secs_f64()
    );
    ampoule.ok(&["rm", "-f", "m"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
