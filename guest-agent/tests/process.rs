//! How a process is run: scheduler, priorities, processors.

mod sandbox;

use ampoule_protocol::message::{ErrorKind, ProcessId, Request, Stdio};
use sandbox::{Sandbox, can_run, changed};
use serde_json::{Value, json};

/// The output of a shell script that has to succeed.
fn output(sandbox: &Sandbox, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.spec = changed(&["sh", "-c", script], change);
    });
    assert_eq!(status.code, 0, "{out}{err}");
    out
}

#[test]
fn the_scheduler_is_as_asked() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let policy = |scheduler: Value| {
        let script = "grep -E '^(policy|prio) ' /proc/self/sched | tr -d ' '; \
                      cut -d' ' -f19,40,41 /proc/self/stat";
        output(&sandbox, script, |spec| spec["process"]["scheduler"] = scheduler)
            .lines()
            .last()
            .unwrap()
            .to_owned()
    };
    // Nice value, real-time priority, policy.
    assert_eq!(policy(json!({"policy": "SCHED_BATCH", "nice": 5})), "5 0 3");
    assert_eq!(policy(json!({"policy": "SCHED_IDLE"})), "0 0 5");
    assert_eq!(policy(json!({"policy": "SCHED_OTHER", "nice": -3})), "-3 0 0");
    let mut request = sandbox.request("c", &[], Stdio::default());
    request.spec = changed(&["true"], |spec| {
        spec["process"]["scheduler"] = json!({"policy": "SCHED_ISO"});
    });
    let (kind, message) = sandbox.rpc().error(Request::Create(Box::new(request)));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("SCHED_ISO"), "{message}");
}

#[test]
fn input_and_output_have_a_priority() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let priority = |priority: Value| {
        output(&sandbox, "ionice", |spec| spec["process"]["ioPriority"] = priority)
    };
    assert_eq!(priority(json!({"class": "IOPRIO_CLASS_IDLE"})), "idle\n");
    let best = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    assert_eq!(priority(best), "best-effort: prio 6\n");
}

#[test]
fn a_further_process_has_its_processors() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(ProcessId::init("c")));
    let (stdio, pipes) = sandbox.pipes();
    let args = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let mut exec = sandbox::exec("c", "p", &args, stdio);
    exec.spec = Box::new(
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
                                      "execCPUAffinity": {"initial": "0", "final": "1"}}))
        .unwrap(),
    );
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("skipped: a_further_process_has_its_processors: needs two processors");
        return;
    }
    rpc.created(Request::Exec(Box::new(exec)));
    assert_eq!(rpc.wait(sandbox::process("c", "p")).code, 0);
    assert_eq!(sandbox::text(pipes.stdout), "Cpus_allowed_list:\t1\n");
}

#[test]
fn the_mask_and_groups_of_the_user_are_the_processs() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let out = output(&sandbox, "umask; id -G; cat /proc/self/oom_score_adj; uname -m", |spec| {
        spec["process"]["user"] =
            json!({"uid": 5, "gid": 6, "umask": 0o27, "additionalGids": [7, 8]});
        spec["process"]["oomScoreAdj"] = json!(321);
        spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    assert_eq!(out, "0027\n6 7 8\n321\ni686\n");
}
