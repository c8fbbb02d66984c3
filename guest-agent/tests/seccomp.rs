//! Filters of system calls.

mod sandbox;

use ampoule_protocol::message::{ErrorKind, Request, Stdio};
use sandbox::{Sandbox, can_run, changed};
use serde_json::{Value, json};

/// A shell script's exit code and output under a profile.
fn run(sandbox: &Sandbox, script: &str, gains: bool, profile: &Value) -> (i32, String) {
    let (status, out, err) = sandbox.run_changed("c", &[], |request| {
        request.spec = changed(&["sh", "-c", script], |spec| {
            spec["linux"]["seccomp"] = profile.clone();
            spec["process"]["noNewPrivileges"] = json!(!gains);
        });
    });
    (status.code, out + &err)
}

fn rule(names: &[&str], action: &str) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
           "syscalls": [{"names": names, "action": action}]})
}

#[test]
fn calls_fail_as_the_profile_says() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    // With and without privileges to gain, the filter is loaded at other moments.
    for gains in [false, true] {
        let mut profile = rule(&["mkdir", "no_such_call"], "SCMP_ACT_ERRNO");
        let (code, text) = run(&sandbox, "mkdir /tmp/x", gains, &profile);
        assert_eq!(code, 1);
        assert!(text.contains("Operation not permitted"), "{text}");
        profile["syscalls"][0]["errnoRet"] = json!(libc::EXDEV);
        let (_, text) = run(&sandbox, "mkdir /tmp/x", gains, &profile);
        assert!(text.contains("Invalid cross-device link"), "{text}");
        let filters = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | cut -f2";
        let (_, text) = run(&sandbox, filters, gains, &profile);
        assert_eq!(text, format!("{}\n2\n", i32::from(!gains)));
    }
}

#[test]
fn forbidden_calls_kill_or_trap() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    for action in
        ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
    {
        let (code, _) = run(&sandbox, "exec mkdir /tmp/x", false, &rule(&["mkdir"], action));
        assert_eq!(code, 128 + libc::SIGSYS, "{action}");
    }
    // Logged, it is done; traced by nobody, it is not.
    let (code, _) = run(&sandbox, "mkdir /tmp/x", false, &rule(&["mkdir"], "SCMP_ACT_LOG"));
    assert_eq!(code, 0);
    let (code, text) = run(&sandbox, "mkdir /tmp/x", false, &rule(&["mkdir"], "SCMP_ACT_TRACE"));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Function not implemented"), "{text}");
}

#[test]
fn arguments_are_compared() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let profile = |arguments: Value| {
        let mut profile = rule(&["kill"], "SCMP_ACT_ERRNO");
        profile["syscalls"][0]["args"] = arguments;
        profile
    };
    let may = |arguments: Value, signal: i32| {
        let (code, text) = run(&sandbox, &format!("kill -{signal} 1"), false, &profile(arguments));
        assert!(code == 0 || text.contains("not permitted"), "{text}");
        code == 0
    };
    let second = |op: &str, value: u64| json!([{"index": 1, "op": op, "value": value}]);
    // The signals are ones that nobody dies of.
    let (low, high) = (libc::SIGCHLD, libc::SIGURG);
    let value = u64::from(high.unsigned_abs());
    for (op, low_may, high_may) in [
        ("SCMP_CMP_EQ", true, false),
        ("SCMP_CMP_NE", false, true),
        ("SCMP_CMP_LT", false, true),
        ("SCMP_CMP_LE", false, false),
        ("SCMP_CMP_GE", true, false),
        ("SCMP_CMP_GT", true, true),
    ] {
        let found = (may(second(op, value), low), may(second(op, value), high));
        assert_eq!(found, (low_may, high_may), "{op}");
    }
    // 17 and 23: the bits of 16 and 2.
    let masked = json!([{"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 2, "valueTwo": 2}]);
    assert_eq!((may(masked.clone(), low), may(masked, high)), (true, false));
    // Two conditions on different arguments have to hold both, on the same either.
    let both = json!([{"index": 0, "op": "SCMP_CMP_EQ", "value": 1},
                      {"index": 1, "op": "SCMP_CMP_EQ", "value": value}]);
    assert_eq!((may(both.clone(), low), may(both, high)), (true, false));
    let either = json!([{"index": 1, "op": "SCMP_CMP_EQ", "value": low},
                        {"index": 1, "op": "SCMP_CMP_EQ", "value": high}]);
    assert_eq!((may(either.clone(), low), may(either, high)), (false, false));
}

#[test]
fn a_further_process_has_the_filter_too() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let mut request = sandbox.request("c", &["sleep", "1000"], Stdio::default());
    request.spec = changed(&["sleep", "1000"], |spec| {
        spec["linux"]["seccomp"] = rule(&["mkdir"], "SCMP_ACT_ERRNO");
    });
    rpc.created(Request::Create(Box::new(request)));
    rpc.done(Request::Start(sandbox::process("c", "init")));
    let (stdio, pipes) = sandbox.pipes();
    let exec = sandbox::exec("c", "p", &["mkdir", "/tmp/x"], stdio);
    rpc.created(Request::Exec(Box::new(exec)));
    assert_eq!(rpc.wait(sandbox::process("c", "p")).code, 1);
    assert!(sandbox::text(pipes.stderr).contains("Operation not permitted"));
}

#[test]
fn what_no_filter_can_be_made_of_is_refused_by_name() {
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::start();
    let rpc = sandbox.rpc();
    let refused = |profile: Value| {
        let mut request = sandbox.request("c", &["true"], Stdio::default());
        request.spec = changed(&["true"], |spec| spec["linux"]["seccomp"] = profile);
        rpc.error(Request::Create(Box::new(request)))
    };
    let (kind, message) = refused(rule(&["mkdir"], "SCMP_ACT_NOTIFY"));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("SCMP_ACT_NOTIFY"), "{message}");
    let mut profile = rule(&["mkdir"], "SCMP_ACT_ERRNO");
    profile["syscalls"][0]["args"] = json!([{"index": 6, "op": "SCMP_CMP_EQ", "value": 0}]);
    let (kind, message) = refused(profile);
    assert_eq!(kind, ErrorKind::InvalidArgument);
    assert!(message.contains("argument 6"), "{message}");
}
