//! `ampoule-oci features`: what the runtime can do, as the specification's features document.

use std::process::ExitCode;

use ampoule_protocol::features as agent;
use serde_json::{Value, json};

use super::{Global, OciError, SPEC_VERSION, hooks, table};

/// Print what the runtime can do, as JSON
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: &Args, _global: &Global) -> Result<ExitCode, OciError> {
    table::print(&(super::json(&document())? + "\n"))
}

/// Of version 1.2 of the specification.
fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": hooks::NAMES,
        "mountOptions": agent::MOUNT_OPTIONS,
        "linux": {
            "namespaces": agent::NAMESPACES,
            "capabilities": agent::CAPABILITIES,
            "cgroup": {
                // A guest has version 2, whatever the host has.
                "v1": false,
                "v2": true,
                // The names are taken; systemd itself is not asked.
                "systemd": true,
                "systemdUser": false,
                "rdma": false,
            },
            "seccomp": {
                "enabled": true,
                "actions": agent::SECCOMP_ACTIONS,
                "operators": agent::SECCOMP_OPERATORS,
                "archs": agent::SECCOMP_ARCHITECTURES,
                "knownFlags": agent::SECCOMP_FLAGS,
                "supportedFlags": agent::SECCOMP_EFFECTIVE_FLAGS,
            },
            // For the host's kernel; the container has its own.
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
        "annotations": { "io.ampoule.version": env!("CARGO_PKG_VERSION") },
        // They size the machine.
        "potentiallyUnsafeConfigAnnotations": ["io.ampoule."],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Features;

    #[test]
    fn the_document_is_the_specifications() {
        let features: Features = serde_json::from_value(document()).unwrap();
        assert_eq!(features.oci_version_max(), SPEC_VERSION);
        let linux = features.linux().as_ref().unwrap();
        assert_eq!(linux.capabilities().as_ref().unwrap().len(), agent::CAPABILITIES.len());
        assert_eq!(linux.seccomp().as_ref().unwrap().enabled(), &Some(true));
    }
}
