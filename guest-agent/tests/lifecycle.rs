//! A container's life, as the host sees it.

mod sandbox;

use ampoule_protocol::message::{ErrorKind, ProcessId, Reply, Request, Stdio};
use sandbox::{Sandbox, can_run, changed, exec, process, user};
use serde_json::json;

#[test]
fn a_container_runs_and_tells_its_exit_code() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let script = "echo out; echo err >&2; exit 7";
    let (status, out, err) = sandbox.run("c", &["sh", "-c", script]);
    assert_eq!((status.code, status.oom_killed), (7, false));
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    // The name is free again.
    assert_eq!(sandbox.run("c", &["true"]).0.code, 0);
    assert_eq!(sandbox.shut_down(), 0);
}
