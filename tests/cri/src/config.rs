//! Pods and containers as a kubelet describes them.

use std::path::Path;

use crate::v1;

/// A pod with everything that a kubelet gives to any: names, a folder for its logs, a host name, a name
/// server, a control group of its own below `cgroup`.
pub fn pod(name: &str, logs: &Path, cgroup: &str) -> v1::PodSandboxConfig {
    let namespaces =
        v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        seccomp: Some(runtime_default()),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.join(name).display().to_string(),
        dns_config: Some(v1::DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["default.svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("{cgroup}/pod-{name}"),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container with this command, its output in `NAME_ATTEMPT.log`.
pub fn container(name: &str, image_name: &str, command: &[&str]) -> v1::ContainerConfig {
    let security = v1::LinuxContainerSecurityContext {
        namespace_options: Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Container.into(),
            ..Default::default()
        }),
        seccomp: Some(runtime_default()),
        masked_paths: ["/proc/kcore", "/proc/keys", "/sys/firmware"].map(str::to_owned).into(),
        readonly_paths: ["/proc/sys", "/proc/irq", "/proc/bus"].map(str::to_owned).into(),
        ..Default::default()
    };
    let resources = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_shares: 102,
        oom_score_adj: 900,
        ..Default::default()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(image(image_name)),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}_0.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

/// An image that is there.
pub fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

/// A volume: something of the host at a place in the container.
pub fn mount(source: &Path, destination: &str, readonly: bool) -> v1::Mount {
    v1::Mount {
        container_path: destination.to_owned(),
        host_path: source.display().to_string(),
        readonly,
        ..Default::default()
    }
}

fn runtime_default() -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    }
}
