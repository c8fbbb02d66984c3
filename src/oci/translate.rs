//! What a `config.json` means to a sandbox: directories of the host become a shared file system, the
//! limits a machine's size, and the rest goes to the guest as it is. What a guest cannot honour is
//! refused by its name. Pure but for a look at the kinds of files.

use std::collections::BTreeMap;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use ampoule_protocol::SHARES;
use oci_spec::runtime::{Linux, LinuxNamespaceType, LinuxResources, Mount, Process, Spec};

use crate::sandbox::limits::listed;
use crate::sandbox::mounts::other_end;
use crate::sandbox::{SHARE, Shape};
use crate::vmm::config::Share;

/// Name of the root file system among the shares.
const ROOTFS: &str = "rootfs";

/// Annotation: memory of the sandbox's machine in MiB, beyond what the limits ask for.
pub const MEMORY_ANNOTATION: &str = "io.ampoule.memory-mib";

/// Annotation: vCPUs of the sandbox's machine, beyond what the limits ask for.
pub const CPUS_ANNOTATION: &str = "io.ampoule.vcpus";

/// Period of a CPU quota that names none, in microseconds.
pub const DEFAULT_PERIOD: u64 = 100_000;

/// Why a container cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// a field that has to be there
    #[error("config.json has no {0}")]
    Missing(&'static str),
    /// a field whose value makes no sense
    #[error("config.json: {field}: {reason}")]
    Invalid {
        /// the field
        field: String,
        /// what is wrong with it
        reason: String,
    },
    /// what a guest cannot honour
    #[error("config.json: {field}: {reason}")]
    Unsupported {
        /// the field
        field: String,
        /// why not
        reason: String,
    },
    /// a change that the machine is too small for
    #[error("{field}: {reason}")]
    Beyond {
        /// the field
        field: String,
        /// why not, and what to do
        reason: String,
    },
    /// a file of the host
    #[error("config.json: {field}: cannot look at {}", path.display())]
    Look {
        /// the field
        field: String,
        /// the file
        path: PathBuf,
        /// why not
        #[source]
        source: io::Error,
    },
}

/// A container as its sandbox gets it.
#[derive(Debug)]
pub struct Translated {
    /// What the agent is sent.
    pub spec: Spec,
    /// What the guest sees of the host's directories and files, by name in [`SHARE`].
    pub shares: BTreeMap<String, Share>,
    /// Path of the root file system in [`SHARE`].
    pub rootfs: PathBuf,
    /// Absolute path of the root file system on the host.
    pub host_rootfs: PathBuf,
    /// The machine.
    pub shape: Shape,
    /// Whether a control group of the host was named for it.
    pub grouped: bool,
    /// The container gets the interface that its guest may have made ready.
    pub networked: bool,
    /// Processors of the host that the machine may run on; all where none is named.
    pub processors: Vec<usize>,
    /// What was asked for and is not done, each with its reason: none of it is the container's own.
    pub warnings: Vec<String>,
}

/// Kind of what is at a path, links followed.
pub fn look(path: &Path) -> io::Result<FileType> {
    std::fs::metadata(path).map(|metadata| metadata.file_type())
}

/// Divides a container's configuration between host and guest. The names of what it shares begin with
/// `prefix`. `look` tells what is at a path.
pub fn translate(
    mut spec: Spec,
    bundle: &Path,
    prefix: &str,
    look: impl Fn(&Path) -> io::Result<FileType>,
) -> Result<Translated, TranslateError> {
    let process = spec.process().as_ref().ok_or(TranslateError::Missing("process"))?;
    check_namespaces(spec.linux().as_ref().ok_or(TranslateError::Missing("linux"))?)?;
    let warnings = lsm_warnings(process, spec.linux().as_ref());
    let root = spec.root().as_ref().ok_or(TranslateError::Missing("root"))?;
    let host_rootfs = bundle.join(root.path());
    let kind = look(&host_rootfs).map_err(|source| TranslateError::Look {
        field: "root.path".into(),
        path: host_rootfs.clone(),
        source,
    })?;
    if !kind.is_dir() {
        let reason = format!("{} is not a directory", host_rootfs.display());
        return Err(TranslateError::Invalid { field: "root.path".into(), reason });
    }
    let share = |path: &Path, read_only| Share { path: path.to_owned(), read_only };
    // Written to for mount points also where the container may not.
    let rootfs = format!("{prefix}{ROOTFS}");
    let mut shares = BTreeMap::from([(rootfs.clone(), share(&host_rootfs, false))]);
    if let Some(mounts) = spec.mounts().clone() {
        let mounts = mounts.into_iter().enumerate().map(|(number, mut mount)| {
            if let Some(shared) = host_source(number, &mount, bundle, &look)? {
                let name = format!("{prefix}m{number}");
                mount.set_source(Some(Path::new(SHARES).join(SHARE).join(&name)));
                shares.insert(name, shared);
            }
            Ok(mount)
        });
        let mounts = mounts.collect::<Result<Vec<_>, TranslateError>>()?;
        spec.set_mounts(Some(mounts));
    }
    let (shape, processors) = size(&spec)?;
    let grouped = spec.linux().as_ref().is_some_and(|linux| linux.cgroups_path().is_some());
    localize(&mut spec, &processors);
    Ok(Translated {
        spec,
        shares,
        rootfs: rootfs.into(),
        host_rootfs,
        shape,
        grouped,
        networked: false,
        processors,
        warnings,
    })
}

/// Namespaces are new ones: a container without one would share the host's, or another sandbox's.
fn check_namespaces(linux: &Linux) -> Result<(), TranslateError> {
    let unsupported = |kind: LinuxNamespaceType, reason: String| {
        Err(TranslateError::Unsupported { field: format!("linux.namespaces: {kind}"), reason })
    };
    let named = linux.namespaces().as_deref().unwrap_or_default();
    for namespace in named {
        let Some(path) = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
        else {
            continue;
        };
        // What is in it is the guest's: see `network`.
        if namespace.typ() == LinuxNamespaceType::Network {
            continue;
        }
        let path = path.display();
        return unsupported(
            namespace.typ(),
            format!("{path} is a namespace of the host, which a guest cannot join"),
        );
    }
    for (kind, hint) in [
        (
            LinuxNamespaceType::Network,
            "; run it with another --network than the host's, such as none",
        ),
        (LinuxNamespaceType::Pid, ""),
        (LinuxNamespaceType::Ipc, ""),
        (LinuxNamespaceType::Uts, ""),
        (LinuxNamespaceType::Mount, ""),
    ] {
        if !named.iter().any(|namespace| namespace.typ() == kind) {
            return unsupported(
                kind,
                format!(
                    "without a namespace of its own it would be the host's, which a guest cannot share{hint}"
                ),
            );
        }
    }
    Ok(())
}

/// Security modules of the host confine processes of the host: the container's are none.
fn lsm_warnings(process: &Process, linux: Option<&Linux>) -> Vec<String> {
    let is_set = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    [
        ("process.apparmorProfile", is_set(process.apparmor_profile().as_ref())),
        ("process.selinuxLabel", is_set(process.selinux_label().as_ref())),
        ("linux.mountLabel", is_set(linux.and_then(|linux| linux.mount_label().as_ref()))),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .map(|(field, _)| {
        format!("{field} is not applied: it is for the host's kernel, the container has its own")
    })
    .collect()
}

/// What a mount shares of the host; nothing where it is one of the guest's own file systems.
fn host_source(
    number: usize,
    mount: &Mount,
    bundle: &Path,
    look: impl Fn(&Path) -> io::Result<FileType>,
) -> Result<Option<Share>, TranslateError> {
    let field = || format!("mounts[{number}] ({})", mount.destination().display());
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |names: &[&str]| options.iter().any(|option| names.contains(&option.as_str()));
    if mount.typ().as_deref() != Some("bind") && !has(&["bind", "rbind"]) {
        return Ok(None);
    }
    let Some(source) = mount.source() else {
        if has(&["remount"]) {
            return Ok(None);
        }
        let reason = "a bind mount has a source".into();
        return Err(TranslateError::Invalid { field: field(), reason });
    };
    let path = bundle.join(source);
    let kind = look(&path).map_err(|source| TranslateError::Look {
        field: field(),
        path: path.clone(),
        source,
    })?;
    let Some(other_end) = other_end(&path, kind) else {
        return Ok(Some(Share { path, read_only: has(&["ro", "rro"]) }));
    };
    let reason = format!("{} {other_end}", path.display());
    Err(TranslateError::Unsupported { field: field(), reason })
}

/// The machine that the limits ask for, and the host's processors that it is for.
pub fn size(spec: &Spec) -> Result<(Shape, Vec<usize>), TranslateError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory = resources
        .and_then(|resources| resources.memory().as_ref())
        .and_then(|memory| memory.limit())
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let processors = match resources {
        Some(resources) => processors(resources)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let quota = cpu.and_then(|cpu| cpu.quota()).filter(|quota| *quota > 0);
    // Far below what a double holds exactly; beyond it the machine has its most vCPUs.
    #[allow(clippy::cast_precision_loss)]
    let cpus = quota.map(|quota| {
        let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0);
        quota as f64 / period.unwrap_or(DEFAULT_PERIOD) as f64
    });
    #[allow(clippy::cast_precision_loss)]
    let cpus = match (cpus, processors.len()) {
        (cpus, 0) => cpus,
        (Some(cpus), count) => Some(cpus.min(count as f64)),
        (None, count) => Some(count as f64),
    };
    Ok((as_annotated(Shape::new(cpus, memory, None), spec)?, processors))
}

/// A machine that is as large as annotations ask for, if it is not larger already.
pub fn as_annotated(mut shape: Shape, spec: &Spec) -> Result<Shape, TranslateError> {
    if let Some(mib) = annotation(spec, MEMORY_ANNOTATION)? {
        shape.memory_mib = shape.memory_mib.max(mib);
    }
    if let Some(vcpus) = annotation::<u8>(spec, CPUS_ANNOTATION)? {
        shape.vcpus = shape.vcpus.max(vcpus.min(crate::vmm::config::MAX_VCPUS));
    }
    Ok(shape)
}

/// The processors of the host that limits name; none where they name none.
pub fn processors(resources: &LinuxResources) -> Result<Option<Vec<usize>>, TranslateError> {
    let list = resources.cpu().as_ref().and_then(|cpu| cpu.cpus().as_deref());
    let Some(list) = list.filter(|list| !list.trim().is_empty()) else {
        return Ok(None);
    };
    let processors = listed(list).ok_or_else(|| TranslateError::Invalid {
        field: "linux.resources.cpu.cpus".into(),
        reason: format!("{list:?} is no list"),
    })?;
    Ok(Some(processors))
}

fn annotation<T: std::str::FromStr>(spec: &Spec, name: &str) -> Result<Option<T>, TranslateError> {
    let text = spec.annotations().as_ref().and_then(|annotations| annotations.get(name));
    text.map(|text| text.parse()).transpose().map_err(|_| TranslateError::Invalid {
        field: format!("annotations: {name}"),
        reason: "it is no number, or too large a one".into(),
    })
}

/// What names things of the host means others in the guest, or nothing.
fn localize(spec: &mut Spec, processors: &[usize]) {
    let vcpus = processors.len().min(usize::from(crate::vmm::config::MAX_VCPUS));
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
    }
    let Some(linux) = spec.linux_mut() else { return };
    linux.set_cgroups_path(None);
    linux.set_mount_label(None);
    // In the guest it is a new one.
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        namespace.set_path(None);
    }
    if let Some(resources) = linux.resources_mut() {
        localize_resources(resources, vcpus);
    }
}

/// The machine has the listed processors and one memory node, whatever their numbers on the host.
fn localize_resources(resources: &mut LinuxResources, vcpus: usize) {
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus((vcpus > 0).then(|| format!("0-{}", vcpus - 1)));
        cpu.set_mems(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> Spec {
        let mut value = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "mounts": [],
            "linux": {"namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "ipc"},
                {"type": "uts"},
            ]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn with(change: impl FnOnce(&mut Value)) -> Result<Translated, TranslateError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("rootfs")).unwrap();
        translate(spec(change), folder.path(), "", look)
    }

    #[test]
    fn host_directories_become_shares() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hosts"), "").unwrap();
        let hosts = folder.path().join("hosts");
        let made = with(|spec| {
            spec["mounts"] = json!([
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["ro"]},
            ]);
        });
        let made = made.unwrap();
        let shares = &made.shares;
        assert_eq!(shares.keys().collect::<Vec<_>>(), ["m1", "rootfs"]);
        assert_eq!(shares["m1"], Share { path: hosts, read_only: true });
        let mounts = made.spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[1].source().as_ref().unwrap(), &Path::new(SHARES).join("host/m1"));
        assert_eq!(mounts[0].source().as_ref().unwrap(), Path::new("proc"));
    }

    #[test]
    fn what_a_guest_cannot_honour_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let cases: [(&str, Value, &str); 4] = [
            ("/linux/namespaces/1/path", json!("/proc/7/ns/pid"), "/proc/7/ns/pid"),
            ("/linux/namespaces/1/type", json!("time"), "pid"),
            ("/mounts", json!([{"destination": "/s", "type": "bind", "source": socket}]), "socket"),
            ("/mounts", json!([{"destination": "/s", "type": "bind", "source": "/none"}]), "/none"),
        ];
        for (pointer, value, word) in cases {
            let error = with(|spec| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[key] = value;
            });
            let error = error.unwrap_err().to_string();
            assert!(error.contains(word), "{pointer}: {error}");
        }
    }

    #[test]
    fn the_machine_is_as_large_as_the_limits_ask() {
        let shape = |resources: Value, annotations: Value| {
            let made = with(|spec| {
                spec["linux"]["resources"] = resources;
                spec["annotations"] = annotations;
            });
            made.map(|made| (made.shape.vcpus, made.shape.memory_mib, made.processors))
        };
        assert_eq!(shape(json!({}), json!({})).unwrap(), (1, 512, vec![]));
        let limits =
            json!({"memory": {"limit": 64 << 20}, "cpu": {"quota": 150_000, "period": 100_000}});
        assert_eq!(shape(limits, json!({})).unwrap(), (2, 160, vec![]));
        let cpuset = json!({"cpu": {"cpus": "2-3,5", "mems": "1"}});
        assert_eq!(shape(cpuset, json!({})).unwrap(), (3, 512, vec![2, 3, 5]));
        let more = json!({MEMORY_ANNOTATION: "1024", CPUS_ANNOTATION: "2"});
        assert_eq!(shape(json!({}), more).unwrap(), (2, 1024, vec![]));
        assert!(shape(json!({}), json!({CPUS_ANNOTATION: "-1"})).is_err());
        assert!(shape(json!({"cpu": {"cpus": "3-1"}}), json!({})).is_err());
        assert!(shape(json!({"cpu": {"cpus": "0-99999999999"}}), json!({})).is_err());
    }

    #[test]
    fn a_list_that_names_processors_again_and_again_is_refused() {
        assert_eq!(listed("0-4095").map(|all| all.len()), Some(4096));
        assert_eq!(listed("5,0-2,1"), Some(vec![0, 1, 2, 5]));
        assert_eq!(listed("0-4096"), None);
        // A config.json has room for a few hundred thousand of these.
        assert_eq!(listed("0-4095,0-4095"), None);
        assert_eq!(listed("0-4095,7"), None);
    }

    #[test]
    fn names_of_the_host_do_not_reach_the_guest() {
        let made = with(|spec| {
            spec["process"]["apparmorProfile"] = json!("docker-default");
            spec["linux"]["cgroupsPath"] = json!("/x");
            spec["linux"]["resources"] = json!({"cpu": {"cpus": "4,6", "mems": "0"}});
        });
        let made = made.unwrap();
        assert_eq!(made.warnings.len(), 1);
        let linux = made.spec.linux().as_ref().unwrap();
        assert!(linux.cgroups_path().is_none());
        let cpu = linux.resources().as_ref().unwrap().cpu().as_ref().unwrap();
        assert_eq!((cpu.cpus().as_deref(), cpu.mems().as_deref()), (Some("0-1"), None));
    }
}
