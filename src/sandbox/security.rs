//! What a container's processes may do inside of its guest: docker's options for it. None of them gives
//! anything of the host's.

use std::str::FromStr;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxDeviceCgroup, LinuxSeccomp, Spec,
};
use serde::{Deserialize, Serialize};

/// The name for all capabilities.
const ALL: &str = "ALL";

/// What a container's processes may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Capabilities beyond docker's, or ALL.
    pub add: Vec<String>,
    /// Capabilities of docker's that it has not, or ALL.
    pub drop: Vec<String>,
    /// All capabilities and devices, and nothing hidden or read-only in /proc and /sys.
    pub privileged: bool,
    /// Programs give no more rights than their caller has.
    pub no_new_privileges: bool,
    /// Nothing is hidden or read-only in /proc and /sys.
    pub plain_paths: bool,
    /// Which system calls are allowed; all without it.
    pub seccomp: Option<LinuxSeccomp>,
}

/// The name of a capability as [`Security`] has it: with or without `CAP_`, in any case.
///
/// # Errors
/// There is none of that name.
pub fn capability(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name != ALL && Capability::from_str(name).is_err() {
        return Err(format!("there is no capability {text:?}"));
    }
    Ok(name.to_owned())
}

/// All that this library's kernels have.
fn all() -> Capabilities {
    let names = caps::all().into_iter().map(|capability| capability.to_string());
    names.filter_map(|name| Capability::from_str(name.trim_start_matches("CAP_")).ok()).collect()
}

impl Security {
    /// docker's order: what is dropped first, then what is added; ALL before the rest.
    pub fn capabilities(&self, usual: &Capabilities) -> Capabilities {
        if self.privileged {
            return all();
        }
        let is_all = |names: &[String]| names.iter().any(|name| name == ALL);
        let named = |names: &[String]| -> Capabilities {
            names.iter().filter_map(|name| Capability::from_str(name).ok()).collect()
        };
        let (add, drop) = (named(&self.add), named(&self.drop));
        let mut set = match (is_all(&self.add), is_all(&self.drop)) {
            (true, _) => all(),
            (false, true) => Capabilities::new(),
            (false, false) => usual.clone(),
        };
        set.retain(|capability| !drop.contains(capability));
        set.extend(add);
        set
    }

    /// Puts it into a specification.
    pub fn add_to(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut() {
            let usual = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
            let set = self.capabilities(&usual.unwrap_or_default());
            let mut sets = LinuxCapabilities::default();
            sets.set_bounding(Some(set.clone()));
            sets.set_effective(Some(set.clone()));
            sets.set_permitted(Some(set));
            sets.set_inheritable(None).set_ambient(None);
            process.set_capabilities(Some(sets));
            process.set_no_new_privileges(Some(self.no_new_privileges));
        }
        if self.privileged {
            let writable = ["/sys", "/sys/fs/cgroup"];
            for mount in spec.mounts_mut().iter_mut().flatten() {
                if writable.iter().any(|path| mount.destination().as_os_str() == *path) {
                    let mut options = mount.options().clone().unwrap_or_default();
                    options.retain(|option| option != "ro");
                    mount.set_options(Some(options));
                }
            }
        }
        let Some(linux) = spec.linux_mut() else { return };
        if self.privileged || self.plain_paths {
            linux.set_masked_paths(None).set_readonly_paths(None);
        }
        if !self.privileged {
            linux.set_seccomp(self.seccomp.clone());
        } else if let Some(resources) = linux.resources_mut() {
            let mut every = LinuxDeviceCgroup::default();
            every.set_allow(true);
            resources.set_devices(Some(vec![every]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| capability(word).unwrap()).collect()
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let usual = Capabilities::from([Capability::Chown, Capability::Kill]);
        let with = |add: &[&str], drop: &[&str]| {
            let security = Security { add: names(add), drop: names(drop), ..Security::default() };
            security.capabilities(&usual)
        };
        assert_eq!(with(&[], &[]), usual);
        assert_eq!(with(&[], &["cap_kill"]), Capabilities::from([Capability::Chown]));
        assert_eq!(with(&["NET_ADMIN"], &["all"]), Capabilities::from([Capability::NetAdmin]));
        let most = with(&["ALL"], &["SYS_ADMIN"]);
        assert!(most.len() > 30 && !most.contains(&Capability::SysAdmin));
        assert!(capability("NET_ADMINS").is_err() && capability("").is_err());
    }
}
