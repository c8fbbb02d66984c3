//! What a container sees of its guest, and does not see of the host.

use crate::needs_sandboxes;
use crate::support::Ampoule;

#[test]
fn a_container_answers_from_its_own_kernel_and_namespaces() {
    needs_sandboxes!();
    let script = "
uname -r
echo pid $$
ls /sys/class/net
cat /proc/1/cgroup
mount | grep ' / '
ls /dev | tr '\\n' ' '
grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status
cat /proc/kcore | wc -c
echo x 2>/dev/null > /proc/sys/kernel/hostname || echo sysctls are read-only
";
    let done = Ampoule::new().shell(&[], "busybox", script);
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(done.code, 0, "{done:?}");
    let said = &done.stdout;
    assert!(!said.starts_with(&host), "{said}");
    for line in [
        "\npid 1\nlo\n0::/\noverlay on / ",
        "\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ",
        "CapEff:\t00000000a80425fb\n",
        "CapBnd:\t00000000a80425fb\n",
        "CapAmb:\t0000000000000000\n",
        "\n0\nsysctls are read-only\n",
    ] {
        assert!(said.contains(line), "{line:?} is missing in {said}");
    }
}

#[test]
fn a_container_cannot_talk_to_its_agent() {
    needs_sandboxes!();
    // The agent's ports, from inside, by every address a guest has for itself.
    let script = "
import socket
for cid in (1, 3):
    for port in (1024, 1025):
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.settimeout(10)
        try:
            s.connect((cid, port))
            print('answered' if s.recv(1) else 'closed')
        except OSError as e:
            print('refused')
";
    let done = Ampoule::new().output(&["run", "--rm", "debian", "python3", "-c", script]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!done.stdout.contains("answered"), "{done:?}");
    assert_eq!(done.stdout.lines().count(), 4, "{done:?}");
}
