//! The five sets of capabilities. A process has none that its spec does not name.

use caps::{CapSet, Capability, CapsHashSet};
use oci_spec::runtime::{Capabilities, Process};

use crate::error::{Error, Result};

/// Drops from the bounding set what the spec does not name there. Comes before the user is
/// switched, while the process may.
pub fn drop_bounding(process: &Process) -> Result<()> {
    let keep = named(process, |capabilities| capabilities.bounding())?;
    for capability in caps::all().difference(&keep) {
        // One that the kernel does not know is not there to drop.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed)?;
        }
    }
    Ok(())
}

/// Sets the other four, after the user was switched.
pub fn set(process: &Process) -> Result<()> {
    let effective = named(process, |capabilities| capabilities.effective())?;
    let permitted = named(process, |capabilities| capabilities.permitted())?;
    let inheritable = named(process, |capabilities| capabilities.inheritable())?;
    let ambient = named(process, |capabilities| capabilities.ambient())?;
    let wrong = |what: &str| Err(Error::Invalid(format!("process.capabilities: {what}")));
    if !effective.is_subset(&permitted) {
        return wrong("effective ones that are not permitted");
    }
    // The kernel has no ambient ones beyond these. Other runtimes leave the rest out, and their own
    // examples count on it.
    let ambient = ambient.into_iter().filter(|c| permitted.contains(c) && inheritable.contains(c));
    // While all are still permitted, any can be inheritable; permitted shrinks after effective.
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &effective).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(failed)?;
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    for capability in ambient {
        caps::raise(None, CapSet::Ambient, capability).map_err(failed)?;
    }
    Ok(())
}

fn named(
    process: &Process,
    set: impl Fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<Capabilities>,
) -> Result<CapsHashSet> {
    let Some(capabilities) = process.capabilities() else {
        return Ok(CapsHashSet::new());
    };
    set(capabilities)
        .iter()
        .flatten()
        .map(|capability| {
            let name = format!("CAP_{capability}");
            name.parse::<Capability>().map_err(|_| Error::Unsupported(format!("capability {name}")))
        })
        .collect()
}

fn failed(error: caps::errors::CapsError) -> Error {
    Error::system("set capabilities", std::io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_of_all_capabilities() {
        let told = ampoule_protocol::features::CAPABILITIES.iter();
        let told: CapsHashSet = told.map(|name| name.parse().unwrap()).collect();
        assert_eq!(told, caps::all());
    }

    #[test]
    fn every_capability_of_the_specification_has_a_name_for_the_kernel() {
        let names: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
        let json = serde_json::json!({
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "capabilities": {"bounding": names},
        });
        let process: Process = serde_json::from_value(json).unwrap();
        assert_eq!(named(&process, |c| c.bounding()).unwrap(), caps::all());
        assert!(named(&process, |c| c.ambient()).unwrap().is_empty());
    }
}
