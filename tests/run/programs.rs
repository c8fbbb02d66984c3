//! Real programs of a real distribution.

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn debian_runs_python_pipelines_and_apt() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let python = ["run", "--rm", "debian", "python3", "-c", "print(sum(range(101)))"];
    ampoule.output(&python).gives(0, "5050\n");
    let pipeline = "printf 'b\\na\\nb\\n' | sort | uniq -c | awk '{print $2 $1}' | tr -d '\\n'";
    ampoule.shell(&[], "debian", pipeline).gives(0, "a1b2");
    let apt = ampoule.output(&["run", "--rm", "debian", "apt-get", "--version"]);
    assert!(apt.code == 0 && apt.stdout.starts_with("apt "), "{apt:?}");
}

#[test]
fn two_hundred_children_are_waited_for_and_orphans_reaped() {
    needs_sandboxes!();
    let script = "
import os
for n in range(200):
    if os.fork() == 0:
        # Half of them leave an orphan behind.
        if n % 2 and os.fork() > 0: os._exit(0)
        os._exit(n % 7)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(200)]
print(len(codes))
";
    let args = ["run", "--rm", "debian", "python3", "-c", script];
    Ampoule::new().output(&args).gives(0, "200\n");
}

#[test]
fn three_cpus_work_at_once() {
    needs_sandboxes!();
    // Each process can go on only while the other two run: no scheduler's slice helps.
    let script = "
import os
page = os.memfd_create('turns')
os.pwrite(page, bytes(3), 0)
print(os.cpu_count(), flush=True)
children = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {n})
        for turn in range(50):
            os.pwrite(page, bytes([turn + 1]), n)
            while min(os.pread(page, 3, 0)) < turn + 1: pass
        os._exit(0)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
";
    let args = ["run", "--rm", "--cpus", "3", "debian", "python3", "-c", script];
    Ampoule::new().output(&args).gives(0, "3\n[0, 0, 0]\n");
}

#[test]
fn a_program_that_fills_its_memory_limit_is_killed() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let before = available_memory_kib();
    let script = "x = bytearray(1 << 20)\nall = []\nwhile True: all.append(bytes(x))";
    let args = ["run", "--name", "greedy", "-m", "64m", "debian", "python3", "-c", script];
    ampoule.output(&args).gives(137, "");
    let left = before.saturating_sub(available_memory_kib());
    assert!(left < 200 << 10, "the host lost {left} KiB of memory");
    assert!(ampoule.ok(&["ps", "-a"]).contains("Exited (137)"));
    ampoule.ok(&["rm", "greedy"]);
    // The host, and others on it, go on.
    ampoule.shell(&[], "busybox", "echo on").gives(0, "on\n");
}

fn available_memory_kib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("MemAvailable:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
