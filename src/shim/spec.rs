//! What a `config.json` of containerd's or CRI-O's means: whether it is a pod, or a container of one, how
//! large a pod is, and which of its parts are the guest's own. Pure.

use std::path::Path;

use ampoule_protocol::network::POD_NAMESPACES;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount, Spec};

use super::error::ShimError;
use crate::oci::{self, DEFAULT_PERIOD};
use crate::sandbox::about::Pod;
use crate::sandbox::{Config, Shape};

/// Names of the annotation that says what a container is to its pod.
const KINDS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// Names of the annotation that says which pod a container belongs to.
const SANDBOXES: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// Names of the annotations that say how Kubernetes calls a pod, and a container.
const POD_NAMES: [&str; 2] = ["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"];
const POD_NAMESPACE_NAMES: [&str; 2] =
    ["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"];
const POD_UIDS: [&str; 2] = ["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"];
const CONTAINER_NAMES: [&str; 2] =
    ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A container that has nothing to do with pods.
    Alone,
    /// The pod itself.
    Pod,
    /// A container of a pod.
    PodContainer {
        /// The pod's id.
        sandbox: String,
    },
}

impl Kind {
    /// What the annotations say.
    pub fn of(spec: &Spec) -> Result<Self, ShimError> {
        let Some(kind) = annotation(spec, &KINDS) else { return Ok(Self::Alone) };
        match kind {
            "sandbox" => Ok(Self::Pod),
            "container" => match annotation(spec, &SANDBOXES) {
                Some(sandbox) => Ok(Self::PodContainer { sandbox: sandbox.to_owned() }),
                None => Err(ShimError::Usage(format!("annotations: no {}", SANDBOXES[0]))),
            },
            other => Err(ShimError::Usage(format!("annotations: {}: {other:?}", KINDS[0]))),
        }
    }
}

fn annotation<'a>(spec: &'a Spec, names: &[&str]) -> Option<&'a str> {
    let annotations = spec.annotations().as_ref()?;
    names.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

/// The machine of a pod: what its containers may take together, as the kubelet adds it up, else what is
/// configured; and more where annotations say so.
///
/// # Errors
/// Annotations that ask for more, and are no numbers.
pub fn pod_shape(spec: &Spec, config: &Config) -> Result<Shape, ShimError> {
    let number = |name: &str| {
        let text = annotation(spec, &[&format!("io.kubernetes.cri.sandbox-{name}")])?;
        text.parse::<u64>().ok().filter(|number| *number > 0)
    };
    // Far below what a double holds exactly; beyond it the machine has its most vCPUs.
    #[allow(clippy::cast_precision_loss)]
    let cpus = number("cpu-quota")
        .map(|quota| quota as f64 / number("cpu-period").unwrap_or(DEFAULT_PERIOD) as f64);
    let cpus = cpus.unwrap_or_else(|| config.pod.vcpus.into());
    let memory = number("memory").unwrap_or_else(|| u64::from(config.pod.memory_mib) << 20);
    let shape = Shape::new(Some(cpus), Some(memory), None).for_pod();
    Ok(oci::as_annotated(shape, spec)?)
}

/// The pod, by the names that Kubernetes knows it by.
pub fn pod(spec: &Spec) -> Option<Pod> {
    let name = annotation(spec, &POD_NAMES)?.to_owned();
    let text = |names| annotation(spec, names).unwrap_or_default().to_owned();
    Some(Pod { name, namespace: text(&POD_NAMESPACE_NAMES), uid: text(&POD_UIDS) })
}

/// Name of a container in its pod.
pub fn container_name(spec: &Spec) -> Option<&str> {
    annotation(spec, &CONTAINER_NAMES)
}

/// The namespace of this kind that a container names.
pub fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == kind)
}

/// A pod has namespaces of its own: those of the host are on the other side of the wall.
pub fn check_pod(spec: &Spec) -> Result<(), ShimError> {
    for (kind, field) in [
        (LinuxNamespaceType::Network, "hostNetwork"),
        (LinuxNamespaceType::Pid, "hostPID"),
        (LinuxNamespaceType::Ipc, "hostIPC"),
    ] {
        if namespace(spec, kind).is_none() {
            return Err(ShimError::Unsupported(format!(
                "{field}: a pod in a sandbox has a kernel of its own, and cannot share the host's: \
                 run this one with another runtime class"
            )));
        }
    }
    Ok(())
}

/// What of a pod's container is the guest's own: namespaces that it shares with its pod, and the pod's
/// shared memory. They are set aside, so that the rest is a container as any other.
#[derive(Debug, PartialEq, Eq)]
pub struct PodParts {
    joined: Vec<LinuxNamespaceType>,
    shm: Vec<usize>,
}

/// Sets the parts aside that are the pod's. A container that is alone has the network of its sandbox.
pub fn set_aside(spec: &mut Spec, kind: &Kind) -> Result<PodParts, ShimError> {
    if *kind == Kind::Alone {
        let network = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
        let mut network = network.into_iter().flatten();
        let joined = match network.find(|one| one.typ() == LinuxNamespaceType::Network) {
            Some(network) => {
                network.set_path(None);
                vec![LinuxNamespaceType::Network]
            }
            None => Vec::new(),
        };
        return Ok(PodParts { joined, shm: Vec::new() });
    }
    let mut joined = Vec::new();
    if namespace(spec, LinuxNamespaceType::Pid).is_none() {
        return Err(ShimError::Unsupported(
            "hostPID: a container in a sandbox cannot share the host's processes".into(),
        ));
    }
    let linux = spec.linux_mut().as_mut();
    if let Some(namespaces) = linux.and_then(|linux| linux.namespaces_mut().as_mut()) {
        for namespace in namespaces.iter_mut() {
            let shared = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
            let kind = namespace.typ();
            if shared && file_of(kind).is_some() {
                joined.push(kind);
                namespace.set_path(None);
            }
        }
        // CRI-O leaves out what is the pod's.
        for kind in [LinuxNamespaceType::Network, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts]
        {
            if !namespaces.iter().any(|namespace| namespace.typ() == kind) {
                joined.push(kind);
                let mut namespace = LinuxNamespace::default();
                namespace.set_typ(kind);
                namespaces.push(namespace);
            }
        }
    }
    // Its name is the pod's.
    if joined.contains(&LinuxNamespaceType::Uts) {
        spec.set_hostname(None);
        spec.set_domainname(None);
    }
    let mut shm = Vec::new();
    for (number, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        if is_shared_memory(mount) {
            shm.push(number);
            mount.set_typ(Some("tmpfs".into()));
        }
    }
    Ok(PodParts { joined, shm })
}

fn is_shared_memory(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") && mount.destination() == Path::new("/dev/shm")
}

impl PodParts {
    /// Puts them back, as they are called in the guest.
    pub fn put_back(self, spec: &mut Spec) {
        let linux = spec.linux_mut().as_mut();
        if let Some(namespaces) = linux.and_then(|linux| linux.namespaces_mut().as_mut()) {
            for namespace in namespaces {
                let kind = namespace.typ();
                if let Some(name) = file_of(kind).filter(|_| self.joined.contains(&kind)) {
                    namespace.set_path(Some(Path::new(POD_NAMESPACES).join(name)));
                }
            }
        }
        let Some(mounts) = spec.mounts_mut() else { return };
        for number in self.shm {
            if let Some(mount) = mounts.get_mut(number) {
                mount.set_typ(Some("bind".into()));
                mount.set_source(Some(Path::new(POD_NAMESPACES).join("shm")));
            }
        }
    }
}

/// Name of a namespace among those of the guest's pod.
fn file_of(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Network => Some("net"),
        LinuxNamespaceType::Ipc => Some("ipc"),
        LinuxNamespaceType::Uts => Some("uts"),
        LinuxNamespaceType::Pid => Some("pid"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(change: impl FnOnce(&mut Value)) -> Spec {
        let mut value = json!({
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "annotations": {},
            "mounts": [
                {"destination": "/dev/shm", "type": "bind", "source": "/run/x/shm", "options": ["rbind", "ro"]},
                {"destination": "/data", "type": "bind", "source": "/data", "options": ["rbind"]},
            ],
            "linux": {"namespaces": [
                {"type": "pid"},
                {"type": "ipc", "path": "/proc/7/ns/ipc"},
                {"type": "uts", "path": "/proc/7/ns/uts"},
                {"type": "mount"},
                {"type": "network", "path": "/proc/7/ns/net"},
            ]},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn container() -> Kind {
        Kind::PodContainer { sandbox: "p".into() }
    }

    #[test]
    fn annotations_say_what_a_container_is() {
        let of = |annotations: Value| Kind::of(&spec(|spec| spec["annotations"] = annotations));
        assert_eq!(of(json!({})).unwrap(), Kind::Alone);
        assert_eq!(of(json!({"io.kubernetes.cri.container-type": "sandbox"})).unwrap(), Kind::Pod);
        let container = json!({
            "io.kubernetes.cri-o.ContainerType": "container",
            "io.kubernetes.cri-o.SandboxID": "p",
        });
        assert_eq!(of(container).unwrap(), Kind::PodContainer { sandbox: "p".into() });
        assert!(of(json!({"io.kubernetes.cri.container-type": "container"})).is_err());
        assert!(of(json!({"io.kubernetes.cri.container-type": "vm"})).is_err());
    }

    fn pod_shape_of(change: impl FnOnce(&mut Value)) -> Shape {
        pod_shape(&spec(change), &Config::default()).unwrap()
    }

    #[test]
    fn a_pod_is_as_large_as_its_containers() {
        let shape = pod_shape_of(|spec| {
            spec["annotations"] = json!({
                "io.kubernetes.cri.sandbox-memory": "268435456",
                "io.kubernetes.cri.sandbox-cpu-quota": "150000",
                "io.kubernetes.cri.sandbox-cpu-period": "100000",
            });
        });
        assert_eq!((shape.vcpus, shape.memory_mib), (2, 352));
        assert_eq!(pod_shape_of(|_| ()).vcpus, 1);
        let larger = pod_shape_of(|spec| spec["annotations"] = json!({"io.ampoule.vcpus": "3"}));
        assert_eq!((larger.vcpus, larger.memory_mib), (3, pod_shape_of(|_| ()).memory_mib));
        let many = spec(|spec| spec["annotations"] = json!({oci::CPUS_ANNOTATION: "many"}));
        assert!(pod_shape(&many, &Config::default()).is_err());
    }

    #[test]
    fn a_pod_has_kubernetes_names() {
        assert_eq!(pod(&spec(|_| ())), None);
        let names = spec(|spec| {
            spec["annotations"] = json!({
                "io.kubernetes.cri.sandbox-name": "shop",
                "io.kubernetes.cri.sandbox-namespace": "default",
                "io.kubernetes.cri.container-name": "web",
            });
        });
        let pod = pod(&names).unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.namespace.as_str(), pod.uid.as_str()),
            ("shop", "default", "")
        );
        assert_eq!(container_name(&names), Some("web"));
    }

    #[test]
    fn what_is_the_pods_is_put_back_under_its_name_in_the_guest() {
        let mut spec = spec(|_| ());
        let parts = set_aside(&mut spec, &container()).unwrap();
        assert!(namespace(&spec, LinuxNamespaceType::Ipc).unwrap().path().is_none());
        assert_eq!(spec.mounts().as_ref().unwrap()[0].typ().as_deref(), Some("tmpfs"));
        assert!(spec.hostname().is_none());
        parts.put_back(&mut spec);
        let path = |kind| namespace(&spec, kind).unwrap().path().clone();
        assert_eq!(path(LinuxNamespaceType::Network), Some(Path::new(POD_NAMESPACES).join("net")));
        assert_eq!(path(LinuxNamespaceType::Pid), None);
        let mounts = spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[0].source().as_deref(), Some(&*Path::new(POD_NAMESPACES).join("shm")));
        assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/data")));
    }

    #[test]
    fn a_container_that_is_alone_has_its_sandboxs_network() {
        let mut spec = spec(|_| ());
        set_aside(&mut spec, &Kind::Alone).unwrap().put_back(&mut spec);
        let path = |kind| namespace(&spec, kind).unwrap().path().clone();
        assert_eq!(path(LinuxNamespaceType::Network), Some(Path::new(POD_NAMESPACES).join("net")));
        assert_eq!(path(LinuxNamespaceType::Ipc), Some("/proc/7/ns/ipc".into()));
    }

    #[test]
    fn what_crio_leaves_out_is_the_pods() {
        let mut spec =
            spec(|spec| spec["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]));
        set_aside(&mut spec, &container()).unwrap().put_back(&mut spec);
        let path = |kind| namespace(&spec, kind).unwrap().path().clone();
        assert_eq!(path(LinuxNamespaceType::Uts), Some(Path::new(POD_NAMESPACES).join("uts")));
    }

    #[test]
    fn namespaces_of_the_host_are_refused_by_the_pods_own_words() {
        let without = |name: &str| {
            spec(|spec| {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|namespace| namespace["type"] != name);
            })
        };
        for (name, word) in [("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")] {
            let error = check_pod(&without(name)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(check_pod(&spec(|_| ())).is_ok());
        assert!(set_aside(&mut without("pid"), &container()).is_err());
    }
}
