//! Users, rights, limits and figures of a pod's containers.

use ampoule_cri::v1::{Capability, Int64Value, KeyValue, LinuxContainerResources};

use crate::lab::{NONROOT, until};
use crate::pod::{Pod, WAITS};
use crate::{lab, needs_groups};

/// What can be written inside is asked of a container with its own view of control groups.
const LIMIT: &str = "cat /sys/fs/cgroup/memory.max";

#[test]
fn users_and_rights() {
    let lab = lab!();
    lab.load("nonroot");
    let mut config = Pod::config(&lab, "rights");
    let sysctl = ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned());
    config.linux.as_mut().unwrap().sysctls = [sysctl].into();
    let pod = Pod::run_as(&lab, config);

    let mut config = Pod::shell(
        "user",
        "id -u; id -g; id -G; echo $A; pwd; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    linux.run_as_user = Some(Int64Value { value: 1000 });
    linux.run_as_group = Some(Int64Value { value: 2000 });
    linux.supplemental_groups = vec![3000];
    config.envs = vec![KeyValue { key: "A".to_owned(), value: "b c".to_owned() }];
    config.working_dir = "/tmp".to_owned();
    assert_eq!(pod.run_to_end(&config), (0, "1000\n2000\n2000 3000\nb c\n/tmp\n80\n".to_owned()));

    let mut config = Pod::shell("named", "id -u; id -g; echo $GREETING; pwd");
    config.image = Some(ampoule_cri::image(NONROOT));
    assert_eq!(pod.run_to_end(&config), (0, "1234\n2345\nhello\n/srv/app\n".to_owned()));

    let script =
        "echo x > /file || echo closed; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status";
    let mut config = Pod::shell("closed", script);
    let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    linux.readonly_rootfs = true;
    linux.no_new_privs = true;
    let capabilities = Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        ..Default::default()
    };
    linux.capabilities = Some(capabilities);
    let (code, output) = pod.run_to_end(&config);
    for word in ["closed\n", "CapEff:\t0000000000000400\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(code == 0 && output.contains(word), "{word:?} is missing: {code} {output}");
    }
    pod.remove();
}

#[test]
fn limits_hold_and_change() {
    needs_groups!();
    let lab = lab!();
    let pod = Pod::run(&lab, "limits");
    let limited = |name: &str, script: &str, limit: i64| {
        let mut config = Pod::shell(name, script);
        let resources = config.linux.as_mut().unwrap().resources.as_mut().unwrap();
        resources.memory_limit_in_bytes = limit;
        resources.cpu_quota = 50_000;
        config
    };
    let id = pod.start(&limited("main", WAITS, 64 << 20));
    pod.says("main", "ready\n");
    assert_eq!(pod.ask(&id, LIMIT), "67108864\n");
    assert_eq!(pod.ask(&id, "cat /sys/fs/cgroup/cpu.max"), "50000 100000\n");
    let more = LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        cpu_quota: 70_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    lab.cri().update(&id, more).unwrap();
    assert_eq!(pod.ask(&id, LIMIT), "100663296\n");
    assert_eq!(pod.ask(&id, "cat /sys/fs/cgroup/cpu.max"), "70000 100000\n");

    // tail keeps the whole of a line that does not end.
    let id = pod.start(&limited("greedy", "tail /dev/zero", 16 << 20));
    let status = pod.end_of(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    pod.remove();
}

#[test]
fn figures() {
    let lab = lab!();
    let pod = Pod::run(&lab, "figures");
    let id = pod.start(&Pod::shell(
        "main",
        "head -c 8000000 /dev/urandom > /dev/shm/file; echo ready; exec sleep 1000",
    ));
    pod.says("main", "ready\n");
    let stats = lab.cri().stats(&id).unwrap();
    let memory = stats.memory.unwrap().working_set_bytes.unwrap().value;
    assert!((8_000_000..100_000_000).contains(&memory), "{stats:?}");
    let cpu = |stats: &ampoule_cri::v1::ContainerStats| {
        stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value
    };
    assert!(cpu(&stats) > 0, "{stats:?}");
    pod.ask(&id, "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done");
    let after = lab.cri().stats(&id).unwrap();
    assert!(cpu(&after) > cpu(&stats), "{stats:?} {after:?}");
    let stats = lab.cri().pod_stats(&pod.id).unwrap();
    let linux = stats.linux.clone().unwrap();
    assert_eq!(linux.containers.len(), 1, "{stats:?}");
    until("the pod's figures are there", || {
        let linux = lab.cri().pod_stats(&pod.id).unwrap().linux.unwrap();
        linux.memory.is_some_and(|memory| memory.usage_bytes.is_some_and(|usage| usage.value > 0))
    });
    pod.remove();
}
