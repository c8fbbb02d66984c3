//! `linux.sysctl`: kernel parameters that belong to one of the container's own namespaces, or its
//! pod's.

use std::collections::BTreeMap;

use nix::sched::CloneFlags;
use oci_spec::runtime::Spec;

use crate::error::{Doing, Error, Result};

/// Parameters of the ipc namespace beside those of `fs.mqueue`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Sets those of a container.
pub fn apply(spec: &Spec, namespaces: CloneFlags) -> Result<()> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let mut sorted = BTreeMap::new();
    for (name, value) in asked.into_iter().flatten() {
        sorted.insert(name.clone(), value.clone());
    }
    set(&sorted, namespaces)
}

/// Sets them, through the guest's own `/proc`: its files mean the writer's namespaces, which are these.
pub fn set(asked: &BTreeMap<String, String>, namespaces: CloneFlags) -> Result<()> {
    for (name, value) in asked {
        let path = path(name, namespaces)?;
        std::fs::write(&path, value).doing(|| format!("set sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

fn path(name: &str, namespaces: CloneFlags) -> Result<String> {
    let well_formed = name.split(['.', '/']).all(|part| !part.is_empty())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    if !well_formed {
        return Err(Error::Invalid(format!("sysctl {name:?}")));
    }
    // Separators are dots, or slashes where a name itself has dots (an interface's).
    let dotted = name.find('/').is_none_or(|slash| name.find('.').is_some_and(|dot| dot < slash));
    let slashes = |c| match c {
        '.' if dotted => '/',
        '/' if dotted => '.',
        c => c,
    };
    let path: String = name.chars().map(slashes).collect();
    let Some(namespace) = namespace_of(&path) else {
        return Err(Error::Invalid(format!("sysctl {name} belongs to no namespace")));
    };
    if !namespaces.contains(namespace) {
        return Err(Error::Invalid(format!("sysctl {name} is not the container's own")));
    }
    Ok(format!("/proc/sys/{path}"))
}

fn namespace_of(path: &str) -> Option<CloneFlags> {
    let is_ipc = path.starts_with("fs/mqueue/") || IPC.contains(&path.replace('/', ".").as_str());
    if is_ipc {
        Some(CloneFlags::CLONE_NEWIPC)
    } else if path.starts_with("net/") {
        Some(CloneFlags::CLONE_NEWNET)
    } else if matches!(path, "kernel/domainname" | "kernel/hostname") {
        Some(CloneFlags::CLONE_NEWUTS)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_own_namespaces_are_set() {
        let all = CloneFlags::all();
        assert_eq!(path("net.ipv4.ip_forward", all).unwrap(), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding", all).unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding", all).unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        assert!(path("kernel.shmmax", CloneFlags::CLONE_NEWIPC).is_ok());
    }

    #[test]
    fn the_guests_own_parameters_are_not() {
        assert!(path("kernel.core_pattern", CloneFlags::all()).is_err());
        assert!(path("net.ipv4.ip_forward", CloneFlags::CLONE_NEWIPC).is_err());
        for hostile in ["net/../kernel/core_pattern", "net..x", "", "/net/x", "net.x\0", "net.x y"]
        {
            assert!(path(hostile, CloneFlags::all()).is_err(), "{hostile:?}");
        }
    }
}
