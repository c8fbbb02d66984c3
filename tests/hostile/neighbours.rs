//! What others notice of a hostile guest: nothing.

use std::io::{BufRead, BufReader};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::guest::Guest;
use crate::needs_sandboxes;
use crate::support::{Ampoule, BIN, Finished, code, signal};

/// What a sandbox does while its neighbour storms: it computes, writes, reads and hashes.
const WORK: &str = "\
head -c 8388608 /dev/zero > /tmp/zeros && sha256sum < /tmp/zeros
i=0; sum=0; while [ $i -lt 20000 ]; do i=$((i + 1)); sum=$((sum + i)); done; echo $sum
for n in 1 2 3 4 5 6 7 8; do echo $n; done | sort -r | tr -d '\\n'
echo oops >&2; exit 7
";

const SUM: &str =
    "2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74  -\n200010000\n87654321";

#[test]
fn a_sandbox_beside_a_storm_does_its_work() {
    needs_sandboxes!();
    let storms: Vec<_> = (1..3).map(|seed| Guest::new("storm-endless").seed(seed)).collect();
    let mut machines: Vec<_> =
        storms.iter().map(|storm| storm.command().spawn().unwrap()).collect();
    for machine in &mut machines {
        let stdout = machine.stdout.as_mut().unwrap();
        assert_eq!(BufReader::new(stdout).lines().next().unwrap().unwrap(), "now");
    }
    let ampoule = Ampoule::new();
    let done = ampoule.shell(&[], "busybox", WORK);
    done.gives(7, SUM);
    assert_eq!(done.stderr, "oops\n");
    assert_eq!(ampoule.left(), [""; 0]);
    for machine in &mut machines {
        assert!(machine.try_wait().unwrap().is_none(), "a storm ended before its neighbour");
        signal(machine, Signal::SIGTERM);
        assert_eq!(code(machine.wait().unwrap()), 143);
    }
}

/// A storm is paused and written down like any machine, and what is written down goes on.
#[test]
fn a_storm_is_paused_and_written_down() {
    needs_sandboxes!();
    let storm = Guest::new("storm-endless").option("--control", "control");
    let mut machine = storm.command().spawn().unwrap();
    let mut stdout = BufReader::new(machine.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "now\n");
    let verb = |verb: &str, more: &[&str]| {
        let mut command = Command::new(BIN);
        command.args(["vm", verb, "--control", "control"]).args(more);
        let done = Finished::of(command.current_dir(storm.path("")).output().unwrap());
        assert_eq!(done.code, 0, "{verb}: {done:?}");
    };
    for round in 0..10 {
        verb("pause", &[]);
        if round == 9 {
            verb("snapshot", &["snapshot"]);
        }
        verb("resume", &[]);
    }
    signal(&machine, Signal::SIGTERM);
    assert_eq!(code(machine.wait().unwrap()), 143);

    let mut command = Command::new(BIN);
    command.args(["vm", "restore", "snapshot", "--disk", "disk", "--disk", "read-only,ro"]);
    command.args(["--vsock", "again", "--control", "control"]).current_dir(storm.path(""));
    let mut machine = command.spawn().unwrap();
    // It answers once it runs.
    while !storm.path("control").exists() {
        std::thread::yield_now();
    }
    verb("pause", &[]);
    verb("resume", &[]);
    signal(&machine, Signal::SIGTERM);
    assert_eq!(code(machine.wait().unwrap()), 143);
}
