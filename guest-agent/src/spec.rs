//! What of the OCI runtime specification the agent honours: everything that a spec asks for is
//! either done or refused here by its name, nothing is ignored.
//!
//! Annotations mean nothing to a runtime, `root.path` and `linux.cgroupsPath` name places on the
//! host, the hooks `prestart`, `createRuntime`, `poststart` and `poststop` are the host's to run:
//! these are not looked at.

use std::path::Path;

use ampoule_protocol::network::POD_NAMESPACES;
use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use crate::error::{Error, Result};
use crate::setup;

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
    ] {
        refuse(asked, name)?;
    }
    check_process(process)?;
    let namespaces = Namespaces::of(spec)?;
    check_namespaces(linux, &namespaces)?;
    check_linux(linux)?;
    setup::check_hooks(spec)?;
    setup::check_devices(spec)?;
    setup::propagation(spec)?;
    if let Some(seccomp) = linux.seccomp() {
        setup::check_seccomp(seccomp)?;
    }
    let own = namespaces.all();
    let named = spec.hostname().is_some() || spec.domainname().is_some();
    if named && !own.contains(CloneFlags::CLONE_NEWUTS) {
        return Err(Error::Invalid("hostname needs a uts namespace".into()));
    }
    for mount in spec.mounts().iter().flatten() {
        setup::check_mount(mount)?;
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
    ] {
        refuse(asked, &format!("process.{name}"))?;
    }
    Ok(())
}

/// The namespaces that a spec names.
#[derive(Debug)]
pub struct Namespaces {
    /// Those that the container gets for itself.
    pub new: CloneFlags,
    /// Those that it shares with others in this guest.
    pub joined: Vec<Joined>,
}

/// A namespace of a process, or of the pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Joined {
    /// Which one: a single `CLONE_NEW*`.
    pub kind: CloneFlags,
    /// The process, in the guest's outermost pid namespace; none where it is the pod's.
    pub pid: Option<i32>,
    /// Its name in `/proc/PID/ns`.
    name: &'static str,
}

impl Joined {
    /// The file that stands for it.
    pub fn path(&self) -> String {
        match self.pid {
            Some(pid) => format!("/proc/{pid}/ns/{}", self.name),
            None => format!("{POD_NAMESPACES}/{}", self.name),
        }
    }

    /// Whether it is the pod's pid namespace, which is made when it is wanted.
    pub fn is_pods_pid(&self) -> bool {
        self.pid.is_none() && self.kind == CloneFlags::CLONE_NEWPID
    }
}

impl Namespaces {
    /// # Errors
    /// One is named twice, or cannot be joined.
    pub fn of(spec: &Spec) -> Result<Self> {
        let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let mut found = Self { new: CloneFlags::empty(), joined: Vec::new() };
        for namespace in named.into_iter().flatten() {
            let kind = flag(namespace.typ());
            if found.all().contains(kind) {
                return Err(Error::Invalid(format!("two {} namespaces", namespace.typ())));
            }
            match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
                None => found.new |= kind,
                Some(path) => found.joined.push(join(namespace.typ(), path)?),
            }
        }
        Ok(found)
    }

    /// Those that are not the guest's own.
    pub fn all(&self) -> CloneFlags {
        self.joined.iter().fold(self.new, |all, joined| all | joined.kind)
    }
}

/// Only namespaces of this guest can be joined: those of a process in it, and its pod's.
fn join(kind: LinuxNamespaceType, path: &Path) -> Result<Joined> {
    let name = match kind {
        // Its root is another container's: there is no place for this one's root file system.
        LinuxNamespaceType::Mount => {
            return Err(Error::Unsupported(format!("joining the mount namespace {path:?}")));
        }
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    };
    let of_pod = path.strip_prefix(POD_NAMESPACES).is_ok_and(|rest| rest == Path::new(name));
    if of_pod && matches!(name, "net" | "ipc" | "uts" | "pid") {
        return Ok(Joined { kind: flag(kind), pid: None, name });
    }
    let pid = path.to_str().and_then(|path| {
        let pid = path.strip_prefix("/proc/")?.strip_suffix(name)?.strip_suffix("/ns/")?;
        pid.parse::<i32>().ok().filter(|pid| *pid > 0)
    });
    match pid {
        Some(_) => Ok(Joined { kind: flag(kind), pid, name }),
        None => Err(Error::Unsupported(format!(
            "joining {path:?}, which is no {name} namespace of this sandbox (/proc/PID/ns/{name}, {POD_NAMESPACES}/{name}),"
        ))),
    }
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

fn check_namespaces(linux: &Linux, namespaces: &Namespaces) -> Result<()> {
    if !namespaces.new.contains(CloneFlags::CLONE_NEWNS) {
        return Err(Error::Unsupported("a container without a mount namespace".into()));
    }
    let is_some = |mappings: &Option<Vec<LinuxIdMapping>>| {
        mappings.as_ref().is_some_and(|mappings| !mappings.is_empty())
    };
    let mapped = is_some(linux.uid_mappings()) || is_some(linux.gid_mappings());
    if mapped && !namespaces.all().contains(CloneFlags::CLONE_NEWUSER) {
        return Err(Error::Invalid("linux.uidMappings need a user namespace".into()));
    }
    let has_clocks = linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty());
    let time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    if has_clocks && !namespaces.new.contains(time) {
        return Err(Error::Invalid("linux.timeOffsets need a new time namespace".into()));
    }
    setup::check_clocks(linux)
}

fn check_linux(linux: &Linux) -> Result<()> {
    for (name, asked) in [
        ("netDevices", linux.net_devices().as_ref().is_some_and(|d| !d.is_empty())),
        ("mountLabel", linux.mount_label().as_ref().is_some_and(|label| !label.is_empty())),
        ("intelRdt", linux.intel_rdt().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        (
            "personality.flags",
            linux
                .personality()
                .as_ref()
                .and_then(|personality| personality.flags().as_ref())
                .is_some_and(|flags| !flags.is_empty()),
        ),
    ] {
        refuse(asked, &format!("linux.{name}"))?;
    }
    Ok(())
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
        let namespaces = Namespaces::of(&spec).unwrap();
        assert_eq!(namespaces.new, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID);
        assert_eq!(namespaces.joined, []);
    }

    #[test]
    fn the_host_tells_of_all_namespaces() {
        let kinds = ampoule_protocol::features::NAMESPACES.iter();
        let kinds: Vec<Value> = kinds.map(|kind| json!({"type": kind})).collect();
        let spec = spec(|json| json["linux"]["namespaces"] = json!(kinds));
        assert_eq!(Namespaces::of(&spec).unwrap().new.bits().count_ones(), 8);
    }

    #[test]
    fn namespaces_of_the_guests_processes_can_be_joined() {
        let spec = spec(|json| {
            json["linux"]["namespaces"][1]["path"] = json!("/proc/42/ns/pid");
        });
        let namespaces = Namespaces::of(&spec).unwrap();
        let expected = Joined { kind: CloneFlags::CLONE_NEWPID, pid: Some(42), name: "pid" };
        assert_eq!((namespaces.new, namespaces.joined), (CloneFlags::CLONE_NEWNS, vec![expected]));
        for path in ["/proc/42/ns/net", "/proc/self/ns/pid", "/proc/0/ns/pid", "/proc/-1/ns/pid"] {
            assert!(join(LinuxNamespaceType::Pid, Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let cases: [(&str, Value, &str); 8] = [
            ("/linux/namespaces/1/path", json!("/var/run/netns/x"), "/var/run/netns/x"),
            ("/linux/namespaces/0/path", json!("/proc/7/ns/mnt"), "mount namespace"),
            ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
            ("/process/apparmorProfile", json!("docker-default"), "process.apparmorProfile"),
            ("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel"),
            ("/linux/netDevices", json!({"eth1": {}}), "linux.netDevices"),
            (
                "/linux/devices",
                json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]),
                "/dev/sda (8:0)",
            ),
            (
                "/linux/devices",
                json!([{"path": "/dev/dri/card9", "type": "c", "major": 226, "minor": 9999}]),
                "/dev/dri/card9 (226:9999)",
            ),
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
            ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}])),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 1}})),
            ("/linux/rootfsPropagation", json!("sometimes")),
            ("/hooks", json!({"startContainer": [{"path": "relative"}]})),
            ("/mounts", json!([{"destination": "/x", "type": "tmpfs", "options": ["idmap"]}])),
            ("/mounts", json!([{"destination": "/x", "type": "bind", "source": "relative"}])),
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
