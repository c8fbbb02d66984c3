//! What of the OCI runtime specification the agent honours: everything that a spec asks for is
//! either done or refused here by its name, nothing is ignored.
//!
//! Annotations mean nothing to a runtime, `root.path` and `linux.cgroupsPath` name places on the
//! host: these three are not looked at.

use nix::sched::CloneFlags;
use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, Mount, Process, Spec};

use crate::error::{Error, Result};

/// Checks a container's spec and returns its first process.
///
/// # Errors
/// [`Error::Invalid`] where the spec contradicts itself or lacks something; [`Error::Unsupported`]
/// where it asks for what the agent does not do.
pub fn check(spec: &Spec) -> Result<&Process> {
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    for (name, asked) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("hooks", spec.hooks().as_ref().is_some_and(has_hooks)),
    ] {
        refuse(asked, name)?;
    }
    check_process(process)?;
    check_namespaces(linux)?;
    check_linux(linux)?;
    let own = namespaces(spec);
    let named = spec.hostname().is_some() || spec.domainname().is_some();
    if named && !own.contains(CloneFlags::CLONE_NEWUTS) {
        return Err(Error::Invalid("hostname needs a uts namespace".into()));
    }
    for mount in spec.mounts().iter().flatten() {
        check_mount(mount)?;
    }
    Ok(process)
}

/// Checks a process, the first or a further one.
///
/// # Errors
/// As [`check`].
pub fn check_process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(missing("process.args"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::Invalid(format!("process.cwd {:?} is not absolute", process.cwd())));
    }
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    for (name, asked) in [
        ("apparmorProfile", is_set(process.apparmor_profile())),
        ("selinuxLabel", is_set(process.selinux_label())),
        ("ioPriority", process.io_priority().is_some()),
        ("scheduler", process.scheduler().is_some()),
        ("execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ] {
        refuse(asked, &format!("process.{name}"))?;
    }
    Ok(())
}

/// The namespaces that the container gets for itself.
pub fn namespaces(spec: &Spec) -> CloneFlags {
    let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    named.into_iter().flatten().map(|namespace| flag(namespace.typ())).collect()
}

fn flag(namespace: LinuxNamespaceType) -> CloneFlags {
    match namespace {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(libc::CLONE_NEWTIME),
    }
}

fn check_namespaces(linux: &Linux) -> Result<()> {
    let mut seen = CloneFlags::empty();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if namespace.path().is_some() {
            return Err(Error::Unsupported(format!("joining a {kind} namespace")));
        }
        if matches!(kind, LinuxNamespaceType::User | LinuxNamespaceType::Time) {
            return Err(Error::Unsupported(format!("a {kind} namespace")));
        }
        if seen.contains(flag(kind)) {
            return Err(Error::Invalid(format!("two {kind} namespaces")));
        }
        seen |= flag(kind);
    }
    if !seen.contains(CloneFlags::CLONE_NEWNS) {
        return Err(Error::Unsupported("a container without a mount namespace".into()));
    }
    Ok(())
}

fn check_linux(linux: &Linux) -> Result<()> {
    for (name, asked) in [
        ("netDevices", linux.net_devices().as_ref().is_some_and(|d| !d.is_empty())),
        ("uidMappings", linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty())),
        ("gidMappings", linux.gid_mappings().as_ref().is_some_and(|m| !m.is_empty())),
        ("seccomp", linux.seccomp().is_some()),
        ("mountLabel", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        ("intelRdt", linux.intel_rdt().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        ("timeOffsets", linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty())),
    ] {
        refuse(asked, &format!("linux.{name}"))?;
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<()> {
    let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    refuse(mapped, &format!("an id-mapped mount ({})", mount.destination().display()))
}

fn has_hooks(hooks: &Hooks) -> bool {
    let prestart = hooks.prestart();
    [
        prestart,
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ]
    .into_iter()
    .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}

fn refuse(asked: bool, name: &str) -> Result<()> {
    if asked { Err(Error::Unsupported(name.to_owned())) } else { Ok(()) }
}

fn missing(name: &str) -> Error {
    Error::Invalid(format!("the spec has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> Spec {
        let mut value = json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_plain_spec_is_taken() {
        let spec = spec(|_| ());
        check(&spec).unwrap();
        assert_eq!(namespaces(&spec), CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let cases: [(&str, Value, &str); 6] = [
            ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW"}), "linux.seccomp"),
            ("/linux/namespaces/1/path", json!("/proc/1/ns/pid"), "pid namespace"),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets"),
            ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
            ("/process/scheduler", json!({"policy": "SCHED_IDLE"}), "process.scheduler"),
            ("/hooks", json!({"poststop": [{"path": "/bin/true"}]}), "hooks"),
        ];
        for (pointer, value, name) in cases {
            let spec = spec(|json| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[key] = value;
            });
            match check(&spec) {
                Err(Error::Unsupported(message)) => assert!(message.contains(name), "{message}"),
                other => panic!("{pointer}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_spec_that_lacks_something_is_invalid() {
        for (pointer, value) in [
            ("/process/args", json!([])),
            ("/process/cwd", json!("relative")),
            ("/hostname", json!("no uts namespace")),
            ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}])),
        ] {
            let spec = spec(|json| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[key] = value;
            });
            assert!(matches!(check(&spec), Err(Error::Invalid(_))), "{pointer}");
        }
    }
}
