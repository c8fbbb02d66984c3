//! What a container's processes may do.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use oci_spec::runtime::Capability;

use super::super::Failure;
use super::seccomp;
use crate::sandbox::security::{Security, capability};
use crate::sandbox::spec;

/// What a container's processes may do inside of its guest, and what cannot be had there.
#[derive(Debug, Args)]
pub struct SecurityArgs {
    /// Add a capability, or ALL
    #[arg(long = "cap-add", value_name = "NAME", value_parser = capability)]
    add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long = "cap-drop", value_name = "NAME", value_parser = capability)]
    drop: Vec<String>,
    /// Give the container all that there is in its guest; of the host it has no more than before
    #[arg(long)]
    privileged: bool,
    /// no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined
    #[arg(long = "security-opt", value_name = "OPTION", value_parser = security_option)]
    options: Vec<SecurityOption>,
    /// Refused: a guest has no device of the host
    #[arg(long, hide = true, value_parser = refused_device)]
    device: Option<String>,
    /// Refused: what the host would weigh or slow down is alone in its guest
    #[arg(long, hide = true, alias = "blkio-weight-device", alias = "device-read-bps",
        alias = "device-write-bps", alias = "device-read-iops", alias = "device-write-iops",
        value_parser = refused_disk)]
    blkio_weight: Option<String>,
    /// Refused: control groups of version 2 do not know it
    #[arg(long, hide = true, value_parser = refused_swappiness)]
    memory_swappiness: Option<String>,
}

fn refused_device(_: &str) -> Result<String, String> {
    Err("devices of the host are not passed into a guest; files and directories are (-v)".into())
}

fn refused_disk(_: &str) -> Result<String, String> {
    Err("a container has the disks of its guest alone, which are none of the host's: limit the sandbox as \
         a whole (--cgroup-parent)"
        .into())
}

fn refused_swappiness(_: &str) -> Result<String, String> {
    Err("the guest has control groups of version 2, which do not have it".into())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SecurityOption {
    NoNewPrivileges(bool),
    Seccomp(Option<PathBuf>),
    PlainPaths,
}

fn security_option(text: &str) -> Result<SecurityOption, String> {
    let (name, value) = match text.split_once(['=', ':']) {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => Ok(SecurityOption::NoNewPrivileges(true)),
        ("no-new-privileges", Some("false")) => Ok(SecurityOption::NoNewPrivileges(false)),
        // Without a profile there is none: the kernel behind the system calls is the container's own.
        ("seccomp", Some("unconfined" | "builtin")) => Ok(SecurityOption::Seccomp(None)),
        ("seccomp", Some(file)) if !file.is_empty() => {
            Ok(SecurityOption::Seccomp(Some(file.into())))
        }
        ("systempaths", Some("unconfined")) => Ok(SecurityOption::PlainPaths),
        ("apparmor" | "label", Some("unconfined" | "disable")) => {
            Ok(SecurityOption::NoNewPrivileges(false))
        }
        ("apparmor" | "label", _) => Err(format!(
            "{name}: it is for processes of the host's kernel, the container has its own"
        )),
        _ => {
            Err("it is no-new-privileges, seccomp=FILE|unconfined or systempaths=unconfined".into())
        }
    }
}

impl SecurityArgs {
    /// What was asked for, with the profile that was named.
    pub fn security(self) -> Result<Security, Failure> {
        let mut security = Security {
            add: self.add,
            drop: self.drop,
            privileged: self.privileged,
            ..Security::default()
        };
        let mut profile = None;
        for option in self.options {
            match option {
                SecurityOption::NoNewPrivileges(wanted) => security.no_new_privileges |= wanted,
                SecurityOption::Seccomp(file) => profile = file,
                SecurityOption::PlainPaths => security.plain_paths = true,
            }
        }
        security.seccomp = profile.map(|file| read_profile(&file, &security)).transpose()?;
        Ok(security)
    }
}

fn read_profile(
    file: &Path,
    security: &Security,
) -> Result<oci_spec::runtime::LinuxSeccomp, Failure> {
    let set = security.capabilities(&spec::usual_capabilities()?);
    let has = |name: &str| {
        let name = name.strip_prefix("CAP_").unwrap_or(name);
        Capability::from_str(name).is_ok_and(|capability| set.contains(&capability))
    };
    Ok(seccomp::read(file, has)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options_are_dockers() {
        use SecurityOption::{NoNewPrivileges, PlainPaths, Seccomp};
        for (text, expected) in [
            ("no-new-privileges", NoNewPrivileges(true)),
            ("no-new-privileges:true", NoNewPrivileges(true)),
            ("no-new-privileges=false", NoNewPrivileges(false)),
            ("seccomp=unconfined", Seccomp(None)),
            ("seccomp:p.json", Seccomp(Some("p.json".into()))),
            ("systempaths=unconfined", PlainPaths),
        ] {
            assert_eq!(security_option(text).unwrap(), expected, "{text}");
        }
        for bad in ["apparmor=mine", "label=type:x", "seccomp", "seccomp=", "nonsense"] {
            assert!(security_option(bad).is_err(), "{bad}");
        }
    }
}
