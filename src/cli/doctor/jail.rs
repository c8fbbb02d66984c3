//! What a monitor's jail is made of: whether this host's kernel has it.

use nix::errno::Errno;

use super::finding::{Finding, Group};
use super::host_files::HostFiles;

/// Everything that was looked at.
pub fn look(host: &HostFiles) -> Group {
    let findings = [
        ("user namespaces", user_namespaces(host)),
        ("Landlock", landlock(landlock_abi())),
        ("seccomp", seccomp(host)),
        ("control groups", cgroups(host)),
    ];
    Group::new(Some("for the jail around each monitor"), findings)
}

fn user_namespaces(host: &HostFiles) -> Finding {
    if !host.has("proc/self/ns/user") {
        return Finding::Weak("the kernel has none".into(), "use a kernel with CONFIG_USER_NS");
    }
    let is = |path: &str, value| host.read(path).as_deref() == Some(value);
    if is("proc/sys/user/max_user_namespaces", "0") {
        return Finding::Weak(
            "none may be made".into(),
            "sysctl -w user.max_user_namespaces=15000",
        );
    }
    if is("proc/sys/kernel/unprivileged_userns_clone", "0") {
        return Finding::Weak(
            "only root may make them".into(),
            "run as root, or sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if is("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Finding::Weak(
            "without root, AppArmor must permit them".into(),
            "run as root, or give ampoule an AppArmor profile with the rule `userns,`",
        );
    }
    Finding::Good("may be made".into())
}

/// Version of the interface.
fn landlock_abi() -> nix::Result<i64> {
    const VERSION: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call reads no memory, and makes nothing.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) })
}

fn landlock(abi: nix::Result<i64>) -> Finding {
    match abi {
        Ok(abi) => Finding::Good(format!("version {abi} of its interface")),
        Err(Errno::EOPNOTSUPP) => Finding::Weak(
            "the kernel has it, but does not use it".into(),
            "boot the host with landlock added to lsm=",
        ),
        Err(_) => Finding::Weak(
            "the kernel has none".into(),
            "use a kernel with CONFIG_SECURITY_LANDLOCK (5.13 and later)",
        ),
    }
}

fn seccomp(host: &HostFiles) -> Finding {
    let actions = host.read("proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let has = |action: &&str| actions.split_whitespace().any(|word| word == *action);
    match ["kill_process", "trap", "errno", "allow"].iter().find(|action| !has(action)) {
        None => Finding::Good("filters may kill, trap and refuse".into()),
        Some(action) => Finding::Weak(
            format!("filters cannot {action}"),
            "use a kernel with CONFIG_SECCOMP_FILTER (4.14 and later)",
        ),
    }
}

fn cgroups(host: &HostFiles) -> Finding {
    let Some(controllers) = host.read("sys/fs/cgroup/cgroup.controllers") else {
        return Finding::Weak(
            "version 2 is not at /sys/fs/cgroup".into(),
            "boot the host with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none \
             /sys/fs/cgroup",
        );
    };
    let has = |name: &&&str| controllers.split_whitespace().any(|word| word == **name);
    let missing: Vec<_> =
        ["cpu", "memory", "pids"].iter().filter(|name| !has(name)).copied().collect();
    if missing.is_empty() {
        return Finding::Good("version 2, with cpu, memory and pids".into());
    }
    Finding::Weak(
        format!("version 2 without {}", missing.join(", ")),
        "enable them in cgroup.subtree_control of the group above, or boot without \
         cgroup_disable=",
    )
}

#[cfg(test)]
mod tests {
    use super::super::host_files::testing::host;
    use super::*;

    fn weak(finding: &Finding) -> bool {
        matches!(finding, Finding::Weak(..))
    }

    #[test]
    fn user_namespaces_may_be_off_in_many_ways() {
        let ns = ("proc/self/ns/user", "");
        assert!(weak(&user_namespaces(&host(&[]).1)));
        assert!(!weak(&user_namespaces(&host(&[ns]).1)));
        for (path, value, good) in [
            ("proc/sys/user/max_user_namespaces", "0", "9"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ] {
            assert!(weak(&user_namespaces(&host(&[ns, (path, value)]).1)), "{path}");
            assert!(!weak(&user_namespaces(&host(&[ns, (path, good)]).1)), "{path}");
        }
    }

    #[test]
    fn landlock_is_there_off_or_missing() {
        assert_eq!(landlock(Ok(7)), Finding::Good("version 7 of its interface".into()));
        assert!(weak(&landlock(Err(Errno::EOPNOTSUPP))));
        assert!(weak(&landlock(Err(Errno::ENOSYS))));
        // Whatever this kernel has, asking is harmless and answered.
        let _ = landlock(landlock_abi());
    }

    #[test]
    fn a_missing_action_of_filters_is_named() {
        let of = |actions| seccomp(&host(&[("proc/sys/kernel/seccomp/actions_avail", actions)]).1);
        assert!(!weak(&of("kill_process kill_thread trap errno user_notif trace log allow")));
        let old = of("kill_thread trap errno trace allow");
        assert!(matches!(old, Finding::Weak(words, _) if words.contains("kill_process")));
        assert!(weak(&seccomp(&host(&[]).1)));
    }

    #[test]
    fn missing_controllers_are_named() {
        let of =
            |controllers| cgroups(&host(&[("sys/fs/cgroup/cgroup.controllers", controllers)]).1);
        assert!(!weak(&of("cpuset cpu io memory hugetlb pids rdma misc")));
        let some = of("cpuset io memory");
        assert!(matches!(some, Finding::Weak(words, _) if words.ends_with("without cpu, pids")));
        assert!(weak(&cgroups(&host(&[]).1)));
    }
}
