//! Wrong input: a clear error, the right exit status, nothing left behind.

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn an_unknown_image_is_named() {
    let ampoule = Ampoule::new();
    ampoule
        .output(&["run", "--rm", "--pull", "never", "no-such-image"])
        .fails(125, &["no-such-image", "ampoule load"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_command_that_is_not_there_gives_127_and_one_that_cannot_be_executed_126() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let run = |program| ampoule.output(&["run", "--rm", "busybox", program]);
    run("no-such-program").fails(127, &["no-such-program", "not found"]);
    run("/no/such/program").fails(127, &["/no/such/program"]);
    run("/etc/passwd").fails(126, &["/etc/passwd", "ermission denied"]);
    run("/etc").fails(126, &["/etc"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_kernel_that_is_missing_or_none_is_told() {
    let ampoule = Ampoule::new();
    let run = |kernel| ampoule.output(&["run", "--rm", "--kernel", kernel, "busybox", "true"]);
    if !crate::support::images().join("store").is_dir() {
        return crate::support::skip("needs the test images (tools/test makes them)");
    }
    run("/no/such/kernel").fails(125, &["/no/such/kernel"]);
    run("/etc/passwd").fails(125, &["/etc/passwd", "kernel"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn arguments_out_of_range_are_usage_errors() {
    let ampoule = Ampoule::new();
    for args in [
        &["run", "--cpus", "0", "x"][..],
        &["run", "--cpus", "33", "x"],
        &["run", "-m", "1", "x"],
        &["run", "-m", "huge", "x"],
        &["run"],
        &["run", "--nope", "x"],
        &["no-such-verb"],
    ] {
        assert_eq!(ampoule.output(args).code, 125, "{args:?}");
    }
}

#[test]
fn memory_that_the_host_has_not_is_refused() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    // More than the address space of a process.
    let done = ampoule.output(&["run", "--rm", "-m", "100000000g", "busybox", "true"]);
    done.fails(125, &["memory"]);
    assert_eq!(ampoule.left(), [""; 0]);
}

#[test]
fn a_name_in_use_is_told_with_its_owner() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let id = ampoule.ok(&["run", "-d", "--name", "web", "busybox", "sleep", "1000"]);
    let again = ampoule.output(&["run", "--rm", "--name", "web", "busybox", "true"]);
    again.fails(125, &["\"web\" is in use", &id[..12]]);
    ampoule.ok(&["rm", "-f", "web"]);
    assert_eq!(ampoule.left(), [""; 0]);
}
